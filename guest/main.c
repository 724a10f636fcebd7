/* The guest binary's command line: `enter` builds a sandbox and becomes its agent, `agent` is the agent alone. */
#include "sys.h"

#include "agent.h"
#include "enter.h"

static int usage(void)
{
    static const char text[] = "usage: agentkernel-guest enter --plan-fd N --status-fd M\n"
                               "       agentkernel-guest agent --listen-fd N | --listen PATH | --stream FD|PATH\n"
                               "       agentkernel-guest version\n";
    (void)ak_write_all(2, text, sizeof text - 1);
    return 2;
}

int ak_main(int argc, char **argv)
{
    if (argc >= 2 && ak_streq(argv[1], "enter"))
        return enter_main(argc - 2, argv + 2);
    if (argc >= 2 && ak_streq(argv[1], "agent"))
        return agent_main(argc - 2, argv + 2);
    if (argc == 2 && ak_streq(argv[1], "version")) {
        (void)ak_write_all(1, "protocol 1\n", 11);
        return 0;
    }
    return usage();
}
