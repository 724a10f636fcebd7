/* The connect command: a program's standard input and output become a tunnel through the sandbox's proxy. */
#include "connect.h"

#include "descriptor.h"
#include "proxy.h"

#define HEAD_MAX 8192u
#define TOLD_MAX 4096u /* of a refusal's body */

/* Returns 1: the code of what did not work; words that are none are one more. */
static int fail(const char *what, size_t n)
{
    static const char before[] = "agentkernel-guest connect: ";
    (void)ak_write_all(2, before, sizeof before - 1);
    (void)ak_write_all(2, what, n);
    (void)ak_write_all(2, "\n", 1);
    return 1;
}

#define FAIL(text) fail(text, sizeof text - 1)

/* Reads the head and nothing of what follows it, which is the server's: byte by byte, for there are few. Its length, or 0. */
static size_t read_head(int connection, char head[HEAD_MAX])
{
    size_t n = 0;
    while (n < HEAD_MAX) {
        sysret got = SYS(read, connection, head + n, 1);
        if (got == -EINTR)
            continue;
        if (got <= 0)
            return 0;
        n++;
        if (n >= 4 && memcmp(head + n - 4, "\r\n\r\n", 4) == 0)
            return n;
    }
    return 0;
}

/* Tells the status line, and the body, which says what to ask for. */
static int tell_refusal(int connection, const char *head, size_t n)
{
    char body[TOLD_MAX];
    size_t line = 9, length = 0; /* after the version */
    sysret got = 1;
    while (line < n && head[line] != '\r')
        line++;
    (void)fail(head + 9, line - 9);
    while (length < sizeof body && (got > 0 || got == -EINTR)) {
        got = SYS(read, connection, body + length, sizeof body - length);
        length += got > 0 ? (size_t)got : 0;
    }
    (void)ak_write_all(2, body, length);
    return 1;
}

static int through(int connection, const char *request, size_t length)
{
    static char head[HEAD_MAX];
    unsigned status;
    size_t n;
    int error;
    if (ak_write_all(connection, request, length))
        return FAIL("the proxy has closed the connection");
    n = read_head(connection, head);
    status = proxy_status(head, n);
    if (!status)
        return FAIL("the proxy does not answer");
    if (status < 200 || status > 299)
        return tell_refusal(connection, head, n);
    error = connect_join(connection);
    /* Standard input may be a terminal, whose other users expect that it waits for them. */
    (void)descriptor_nonblocking(0, false);
    (void)descriptor_nonblocking(1, false);
    return error ? 1 : 0;
}

int connect_main(int argc, char **argv, char *const *envp)
{
    char request[PROXY_REQUEST_MAX];
    size_t length;
    sysret connection;
    int code;
    if (argc != 2)
        return FAIL("wants HOST and PORT") + 1;
    length = proxy_request(request, argv[0], argv[1]);
    if (!length)
        return FAIL("HOST is a name or an address without brackets, PORT a number from 1 to 65535") + 1;
    connection = connect_loopback(proxy_port(envp));
    if (connection < 0)
        return FAIL("the sandbox's proxy does not answer: is its network filtered?");
    code = through((int)connection, request, length);
    ak_close(connection);
    return code;
}
