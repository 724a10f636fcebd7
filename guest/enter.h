/* The launcher: executes a launch plan (docs/launch-plan.md) and becomes the agent of the sandbox that it built. */
#ifndef AK_ENTER_H
#define AK_ENTER_H

/* The `enter` verb, with the arguments after it; returns the exit status (0: the sandbox is under way, 1: failed, 2: bad arguments). */
int enter_main(int argc, char **argv);

#endif
