/*
 * Programs that know of no proxy: every address has a route, over the loopback, and nf_tables turns TCP to the agent's transparent port and DNS to its
 * resolver port. All else is dropped where it is sent (EPERM), so that who tries QUIC, NTP or ping hears it at once and goes on.
 */
#include "sandbox.h"

#include "netlink.h"
#include "socket.h"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#define LOOPBACK_INDEX 1 /* of `lo`, in every namespace */
#define DNS_PORT 53
#define PRIORITY_NAT -100
#define PRIORITY_FILTER 0 /* behind it: what was turned to the loopback is no stranger any more */
#define TABLE "agentkernel"

static const uint8_t loopback_ipv6[16] = {[15] = 1};

/* --- routes --- */

/* To a unicast route over `lo` IPv6 answers with an error, so there everything is local; where that leads is for nf_tables to say in both families. */
static sysret add_route(bool ipv6)
{
    struct netlink nl = {0};
    struct rtmsg route = {
        .rtm_family = ipv6 ? AK_AF_INET6 : AK_AF_INET,
        .rtm_table = RT_TABLE_MAIN,
        .rtm_protocol = RTPROT_STATIC,
        .rtm_scope = ipv6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
        .rtm_type = ipv6 ? RTN_LOCAL : RTN_UNICAST,
    };
    uint32_t device = LOOPBACK_INDEX;
    netlink_begin(&nl, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &route, sizeof route);
    netlink_attribute(&nl, RTA_OIF, &device, sizeof device);
    if (ipv6)
        netlink_attribute(&nl, RTA_PREFSRC, loopback_ipv6, sizeof loopback_ipv6);
    else
        netlink_attribute(&nl, RTA_PREFSRC, "\x7f\0\0\1", 4);
    netlink_end(&nl);
    return netlink_send(&nl, NETLINK_ROUTE);
}

/* Without an address of its own the family leads nowhere anyway. */
static bool has_ipv6(void)
{
    union socket_address address;
    unsigned length = socket_loopback(&address, true, 0);
    sysret result, fd = socket_open(true, AK_SOCK_STREAM);
    if (fd < 0)
        return false;
    result = SYS(bind, fd, &address, length);
    ak_close(fd);
    return result >= 0;
}

/* --- nf_tables: expressions --- */

static size_t begin_expression(struct netlink *nl, const char *name, size_t *data)
{
    size_t element = netlink_nest(nl, NFTA_LIST_ELEM);
    netlink_text(nl, NFTA_EXPR_NAME, name);
    *data = netlink_nest(nl, NFTA_EXPR_DATA);
    return element;
}

static void end_expression(struct netlink *nl, size_t element, size_t data)
{
    netlink_unnest(nl, data);
    netlink_unnest(nl, element);
}

static void add_compare(struct netlink *nl, const void *value, size_t n)
{
    size_t data, element = begin_expression(nl, "cmp", &data), nest;
    netlink_be32(nl, NFTA_CMP_SREG, NFT_REG_1);
    netlink_be32(nl, NFTA_CMP_OP, NFT_CMP_EQ);
    nest = netlink_nest(nl, NFTA_CMP_DATA);
    netlink_attribute(nl, NFTA_DATA_VALUE, value, n);
    netlink_unnest(nl, nest);
    end_expression(nl, element, data);
}

static void match_meta(struct netlink *nl, uint32_t key, uint8_t value)
{
    size_t data, element = begin_expression(nl, "meta", &data);
    netlink_be32(nl, NFTA_META_DREG, NFT_REG_1);
    netlink_be32(nl, NFTA_META_KEY, key);
    end_expression(nl, element, data);
    add_compare(nl, &value, sizeof value);
}

static void match_payload(struct netlink *nl, uint32_t base, uint32_t offset, const void *value, size_t n)
{
    size_t data, element = begin_expression(nl, "payload", &data);
    netlink_be32(nl, NFTA_PAYLOAD_DREG, NFT_REG_1);
    netlink_be32(nl, NFTA_PAYLOAD_BASE, base);
    netlink_be32(nl, NFTA_PAYLOAD_OFFSET, offset);
    netlink_be32(nl, NFTA_PAYLOAD_LEN, (uint32_t)n);
    end_expression(nl, element, data);
    add_compare(nl, value, n);
}

static void add_accept(struct netlink *nl)
{
    size_t data, element = begin_expression(nl, "immediate", &data), nest, verdict;
    netlink_be32(nl, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    nest = netlink_nest(nl, NFTA_IMMEDIATE_DATA);
    verdict = netlink_nest(nl, NFTA_DATA_VERDICT);
    netlink_be32(nl, NFTA_VERDICT_CODE, NF_ACCEPT);
    netlink_unnest(nl, verdict);
    netlink_unnest(nl, nest);
    end_expression(nl, element, data);
}

/* To the loopback address of the packet's family. */
static void add_redirect(struct netlink *nl, uint16_t port)
{
    uint16_t swapped = socket_port(port);
    size_t data, element = begin_expression(nl, "immediate", &data), nest;
    netlink_be32(nl, NFTA_IMMEDIATE_DREG, NFT_REG_1);
    nest = netlink_nest(nl, NFTA_IMMEDIATE_DATA);
    netlink_attribute(nl, NFTA_DATA_VALUE, &swapped, sizeof swapped);
    netlink_unnest(nl, nest);
    end_expression(nl, element, data);
    element = begin_expression(nl, "redir", &data);
    netlink_be32(nl, NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
    end_expression(nl, element, data);
}

/* --- nf_tables: the table --- */

static void begin(struct netlink *nl, uint16_t message, uint16_t flags)
{
    struct nfgenmsg header = {.nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0};
    netlink_begin(nl, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | message), flags, &header, sizeof header);
}

static void add_batch_mark(struct netlink *nl, uint16_t message)
{
    struct nfgenmsg header = {.version = NFNETLINK_V0, .res_id = socket_port(NFNL_SUBSYS_NFTABLES)};
    netlink_begin(nl, message, 0, &header, sizeof header);
    netlink_end(nl);
}

static void add_table(struct netlink *nl)
{
    begin(nl, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
    netlink_text(nl, NFTA_TABLE_NAME, TABLE);
    netlink_end(nl);
}

/* A chain at the place where the namespace's own packets leave; its name is its type. */
static void add_chain(struct netlink *nl, const char *type, int32_t priority, uint32_t policy)
{
    size_t hook;
    begin(nl, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL);
    netlink_text(nl, NFTA_CHAIN_TABLE, TABLE);
    netlink_text(nl, NFTA_CHAIN_NAME, type);
    hook = netlink_nest(nl, NFTA_CHAIN_HOOK);
    netlink_be32(nl, NFTA_HOOK_HOOKNUM, NF_INET_LOCAL_OUT);
    netlink_be32(nl, NFTA_HOOK_PRIORITY, (uint32_t)priority);
    netlink_unnest(nl, hook);
    netlink_be32(nl, NFTA_CHAIN_POLICY, policy);
    netlink_text(nl, NFTA_CHAIN_TYPE, type);
    netlink_end(nl);
}

static size_t begin_rule(struct netlink *nl, const char *chain, uint16_t flags)
{
    begin(nl, NFT_MSG_NEWRULE, (uint16_t)(NLM_F_CREATE | NLM_F_APPEND | flags));
    netlink_text(nl, NFTA_RULE_TABLE, TABLE);
    netlink_text(nl, NFTA_RULE_CHAIN, chain);
    return netlink_nest(nl, NFTA_RULE_EXPRESSIONS);
}

static void end_rule(struct netlink *nl, size_t expressions)
{
    netlink_unnest(nl, expressions);
    netlink_end(nl);
}

/* What goes to the loopback stays as it is; `flags` of the last rule. */
static void add_loopback_rules(struct netlink *nl, const char *chain, uint16_t flags)
{
    size_t expressions = begin_rule(nl, chain, 0);
    match_meta(nl, NFT_META_NFPROTO, NFPROTO_IPV4);
    match_payload(nl, NFT_PAYLOAD_NETWORK_HEADER, 16, "\x7f", 1); /* 127.0.0.0/8 */
    add_accept(nl);
    end_rule(nl, expressions);
    expressions = begin_rule(nl, chain, flags);
    match_meta(nl, NFT_META_NFPROTO, NFPROTO_IPV6);
    match_payload(nl, NFT_PAYLOAD_NETWORK_HEADER, 24, loopback_ipv6, sizeof loopback_ipv6);
    add_accept(nl);
    end_rule(nl, expressions);
}

/* `destination` 0: every port. */
static void add_redirect_rule(struct netlink *nl, uint8_t protocol, uint16_t destination, uint16_t port)
{
    uint16_t swapped = socket_port(destination);
    size_t expressions = begin_rule(nl, "nat", 0);
    match_meta(nl, NFT_META_L4PROTO, protocol);
    if (destination)
        match_payload(nl, NFT_PAYLOAD_TRANSPORT_HEADER, 2, &swapped, sizeof swapped);
    add_redirect(nl, port);
    end_rule(nl, expressions);
}

static sysret add_rules(uint16_t tcp, uint16_t dns)
{
    struct netlink nl = {0};
    add_batch_mark(&nl, NFNL_MSG_BATCH_BEGIN);
    add_table(&nl);
    add_chain(&nl, "nat", PRIORITY_NAT, NF_ACCEPT);
    add_chain(&nl, "filter", PRIORITY_FILTER, NF_DROP);
    add_loopback_rules(&nl, "nat", 0);
    add_redirect_rule(&nl, IPPROTO_UDP, DNS_PORT, dns);
    add_redirect_rule(&nl, IPPROTO_TCP, DNS_PORT, dns);
    add_redirect_rule(&nl, IPPROTO_TCP, 0, tcp);
    add_loopback_rules(&nl, "filter", NLM_F_ACK);
    add_batch_mark(&nl, NFNL_MSG_BATCH_END);
    return netlink_send(&nl, NETLINK_NETFILTER);
}

sysret step_transparent(struct sandbox *sandbox, const struct plan_step *step)
{
    sysret result = add_rules((uint16_t)step->arguments[0].number, (uint16_t)step->arguments[1].number);
    (void)sandbox;
    if (result >= 0)
        result = add_route(false);
    return result >= 0 && has_ipv6() ? add_route(true) : result;
}
