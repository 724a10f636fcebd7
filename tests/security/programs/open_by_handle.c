// claim: no file can be opened by its handle, which knows no mount ("shocker")
// row: host-files
// matrix: B
// control: safe
int main(void)
{
    union {
        struct file_handle handle;
        char room[sizeof(struct file_handle) + 128];
    } file = {.handle = {.handle_bytes = 128}};
    int mount_id, root = open("/", O_RDONLY | O_DIRECTORY);
    if (name_to_handle_at(AT_FDCWD, planted("AK_WORK"), &file.handle, &mount_id, 0) < 0) {
        /* A handle as ext4 makes it, of its root's inode 2. */
        file.handle = (struct file_handle){.handle_bytes = 8, .handle_type = 1};
        memcpy(file.handle.f_handle, (uint32_t[]){2, 0}, 8);
    }
    int work = open(planted("AK_WORK"), O_RDONLY | O_DIRECTORY);
    verdict("open a handle", open_by_handle_at(work, &file.handle, O_RDONLY));
    verdict("open a handle on the root", open_by_handle_at(root, &file.handle, O_RDONLY));
    return 0;
}
