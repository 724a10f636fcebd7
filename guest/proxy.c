/* The words of a tunnel: its request, the status of the answer, and the variable that says where to ask. Pure. */
#include "proxy.h"

static const char *after(const char *text, const char *prefix)
{
    for (; *prefix; prefix++, text++)
        if (*text != *prefix)
            return NULL;
    return text;
}

/* The port that a proxy's URL ends with; 0 where it is of another form. */
static uint16_t port_of(const char *url)
{
    const char *digits = after(url, "http://127.0.0.1:");
    unsigned value = 0;
    if (!digits)
        return 0;
    for (; *digits >= '0' && *digits <= '9' && value <= 65535; digits++)
        value = value * 10 + (unsigned)(*digits - '0');
    if (digits[0] == '/')
        digits++;
    return *digits || value > 65535 ? 0 : (uint16_t)value;
}

uint16_t proxy_port(char *const *envp)
{
    for (; *envp; envp++) {
        const char *url = after(*envp, "HTTPS_PROXY=");
        uint16_t port;
        if (!url)
            url = after(*envp, "https_proxy=");
        port = url ? port_of(url) : 0;
        if (port)
            return port;
    }
    return PROXY_PORT;
}

static bool is_host_letter(char letter)
{
    bool is_alphanumeric = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') || (letter >= '0' && letter <= '9');
    return is_alphanumeric || letter == '.' || letter == '-' || letter == '_' || letter == ':';
}

/* The length of what may stand in a request as a host; 0 where it may not. The proxy judges it further. */
static size_t host_length(const char *host)
{
    size_t n = 0;
    for (; host[n]; n++)
        if (n >= PROXY_HOST_MAX || !is_host_letter(host[n]))
            return 0;
    return n;
}

static char *put(char *to, const char *text, size_t n)
{
    memcpy(to, text, n);
    return to + n;
}

static char *put_destination(char *to, const char *host, size_t length, uint64_t port)
{
    bool is_ipv6 = false;
    for (size_t i = 0; i < length; i++)
        is_ipv6 = is_ipv6 || host[i] == ':';
    to = put(to, "[", is_ipv6);
    to = put(to, host, length);
    to = put(to, "]:", is_ipv6 ? 2 : 0);
    if (!is_ipv6)
        *to++ = ':';
    return to + ak_format_u64(to, port);
}

size_t proxy_request(char out[PROXY_REQUEST_MAX], const char *host, const char *port)
{
    size_t length = host_length(host);
    uint64_t number;
    char *to = out;
    if (length == 0 || !ak_parse_u64(port, 10, &number) || number == 0 || number > 65535)
        return 0;
    to = put(to, "CONNECT ", 8);
    to = put_destination(to, host, length, number);
    to = put(to, " HTTP/1.1\r\nHost: ", 17);
    to = put_destination(to, host, length, number);
    to = put(to, "\r\n\r\n", 4);
    return (size_t)(to - out);
}

unsigned proxy_status(const char *head, size_t n)
{
    unsigned status = 0;
    if (n < 13 || memcmp(head, "HTTP/1.", 7) != 0 || head[8] != ' ' || (head[12] != ' ' && head[12] != '\r'))
        return 0;
    for (size_t i = 9; i < 12; i++) {
        if (head[i] < '0' || head[i] > '9')
            return 0;
        status = status * 10 + (unsigned)(head[i] - '0');
    }
    return status >= 100 && status <= 599 ? status : 0;
}
