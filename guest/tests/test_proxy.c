/* The words of a tunnel through the sandbox's proxy. */
#include "proxy.h"

#include "check.h"

static void expect_request(const char *host, const char *port, const char *wanted)
{
    char *out = malloc(PROXY_REQUEST_MAX);
    size_t n = proxy_request(out, host, port);
    CHECK(n == strlen(wanted) && memcmp(out, wanted, n) == 0);
    free(out);
}

static void expect_port(const char *variable, unsigned wanted)
{
    char path[] = "PATH=/bin";
    char *envp[] = {path, check_copy(variable, strlen(variable) + 1), NULL};
    CHECK(proxy_port(envp) == wanted);
    free(envp[1]);
}

static void expect_status(const char *head, unsigned wanted)
{
    size_t n = strlen(head);
    char *copy = check_copy(head, n);
    CHECK(proxy_status(copy, n) == wanted);
    free(copy);
}

static void a_request_names_host_and_port_twice(void)
{
    expect_request("git.example", "22", "CONNECT git.example:22 HTTP/1.1\r\nHost: git.example:22\r\n\r\n");
    expect_request("192.0.2.7", "65535", "CONNECT 192.0.2.7:65535 HTTP/1.1\r\nHost: 192.0.2.7:65535\r\n\r\n");
    expect_request("2001:db8::1", "022", "CONNECT [2001:db8::1]:22 HTTP/1.1\r\nHost: [2001:db8::1]:22\r\n\r\n");
}

static void the_longest_host_fits(void)
{
    char host[PROXY_HOST_MAX + 2], *out = malloc(PROXY_REQUEST_MAX);
    memset(host, ':', sizeof host);
    host[PROXY_HOST_MAX] = '\0';
    CHECK(proxy_request(out, host, "65535") > 2 * PROXY_HOST_MAX);
    host[PROXY_HOST_MAX] = ':';
    host[PROXY_HOST_MAX + 1] = '\0';
    CHECK(proxy_request(out, host, "65535") == 0);
    free(out);
}

static void what_is_no_host_or_port_is_refused(void)
{
    static const char *const hosts[] = {"", "a b", "a\r\nHost: b", "a/b", "[::1]", "a@b", "f\xc3\xa4rbe.example", "fe80::1%eth0"};
    static const char *const ports[] = {"", "0", "65536", "-1", "22 ", "ssh", "99999999999999999999"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++)
        expect_request(hosts[i], "22", "");
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
        expect_request("a.example", ports[i], "");
}

static void the_port_is_that_of_a_proxy_on_loopback(void)
{
    expect_port("HTTPS_PROXY=http://127.0.0.1:8123", 8123);
    expect_port("https_proxy=http://127.0.0.1:8123/", 8123);
    expect_port("HTTPS_PROXY=", PROXY_PORT);
    expect_port("HTTPS_PROXY=http://127.0.0.1:0", PROXY_PORT);
    expect_port("HTTPS_PROXY=http://127.0.0.1:65536", PROXY_PORT);
    expect_port("HTTPS_PROXY=http://127.0.0.1:99999999999999999999", PROXY_PORT);
    expect_port("HTTPS_PROXY=http://127.0.0.1:80x", PROXY_PORT);
    expect_port("HTTPS_PROXY=http://proxy.example:8123", PROXY_PORT);
    expect_port("HTTP_PROXY=http://127.0.0.1:8123", PROXY_PORT);
}

static void a_status_is_read_from_a_whole_status_line(void)
{
    expect_status("HTTP/1.1 200 Connection established\r\n\r\n", 200);
    expect_status("HTTP/1.0 403\r\n\r\n", 403);
    expect_status("HTTP/1.1 099 x\r\n\r\n", 0);
    expect_status("HTTP/1.1 600 x\r\n\r\n", 0);
    expect_status("HTTP/1.1 2000\r\n\r\n", 0);
    expect_status("HTTP/2 200 x\r\n\r\n", 0);
    expect_status("SSH-2.0-OpenSSH_9.6\r\n", 0);
    expect_status("HTTP/1.1 200", 0);
    expect_status("", 0);
}

int main(void)
{
    a_request_names_host_and_port_twice();
    the_longest_host_fits();
    what_is_no_host_or_port_is_refused();
    the_port_is_that_of_a_proxy_on_loopback();
    a_status_is_read_from_a_whole_status_line();
    return CHECK_RESULT();
}
