// claim: no interface can be made and no packet filter, audit or device event interface be opened
// row: network
// matrix: B
// control: confined
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
int main(void)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg interface;
        struct rtattr info, kind;
        char name[8];
    } make = {0}; /* a dummy interface */
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    make.header = (struct nlmsghdr){.nlmsg_len = sizeof make, .nlmsg_type = RTM_NEWLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL};
    make.info = (struct rtattr){sizeof make.info + sizeof make.kind + sizeof make.name, IFLA_LINKINFO};
    make.kind = (struct rtattr){sizeof make.kind + 6, 1 /* IFLA_INFO_KIND */};
    memcpy(make.name, "bridge", 6);
    char answer[512];
    if (fd >= 0 && send(fd, &make, sizeof make, 0) > 0 && recv(fd, answer, sizeof answer, 0) > 0) {
        int error = ((struct nlmsgerr *)(void *)(answer + sizeof(struct nlmsghdr)))->error;
        errno = -error;
        verdict("make an interface", error ? -1 : 0);
    }
    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    verdict("packet filter interface", fd);
    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_AUDIT);
    verdict("audit interface", fd);
    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
    verdict("device event interface", fd);
    return 0;
}
