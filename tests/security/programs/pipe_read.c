// claim: reading or writing a named pipe through the files interface neither hangs nor blocks others
// row: files
// matrix: C
// control: safe
// then: read pipe
int main(void)
{
    char path[4096];
    in_work(path, sizeof path, "pipe");
    return mkfifo(path, 0666) < 0;
}
