/* The guest binary's command line: `enter` builds a sandbox and becomes its agent, `agent` is the agent alone, `connect` a program's way out. */
#include "sys.h"

#include "agent.h"
#include "builtin.h"
#include "connect.h"
#include "enter.h"

static int usage(void)
{
    static const char text[] = "usage: agentkernel-guest enter --plan-fd N --status-fd M\n"
                               "       agentkernel-guest agent --listen-fd N | --listen PATH | --listen-any PATH | --stream FD|PATH\n"
                               "       agentkernel-guest relay PATH\n"
                               "       agentkernel-guest connect HOST PORT\n"
                               "       agentkernel-guest version\n";
    (void)ak_write_all(2, text, sizeof text - 1);
    return 2;
}

/* Standard input and output become a connection to the agent's socket: for engines that pass on a session's streams and nothing else. */
static int relay(char *path)
{
    char *argv[] = {"unix", path, NULL};
    return builtin_connect(argv);
}

int ak_main(int argc, char **argv)
{
    if (argc >= 2 && ak_streq(argv[1], "enter"))
        return enter_main(argc - 2, argv + 2);
    if (argc >= 2 && ak_streq(argv[1], "agent"))
        return agent_main(argc - 2, argv + 2);
    if (argc == 3 && ak_streq(argv[1], "relay"))
        return relay(argv[2]);
    if (argc >= 2 && ak_streq(argv[1], "connect"))
        return connect_main(argc - 2, argv + 2, argv + argc + 1);
    if (argc == 2 && ak_streq(argv[1], "version")) {
        (void)ak_write_all(1, "protocol 1\n", 11);
        return 0;
    }
    return usage();
}
