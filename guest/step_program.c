/* The last step of a plan whose agent runs behind a kernel of its own: start the program that brings that kernel up, and keep its stream. */
#include "sandbox.h"

#include "clock.h"
#include "descriptor.h"
#include "keeper.h"
#include "kernel.h"
#include "status.h"

#include <linux/fcntl.h>
#include <linux/sched.h>

#define WORDS_MAX 63u
#define UMASK 022
#define AK_AF_UNIX 1
#define AK_SOCK_STREAM 1

struct program {
    const char *path;
    char *argv[WORDS_MAX + 1];
    int listener, log;
    int near, far;         /* the stream */
    int reading, reported; /* why it could not be executed */
};

/* Words that each end in a NUL. */
static sysret split(const struct plan_value *words, struct program *program)
{
    unsigned count = 0;
    if (words->length == 0 || words->text[words->length - 1] != 0)
        return -EINVAL;
    for (uint32_t at = 0; at < words->length; at += (uint32_t)strlen(words->text + at) + 1) {
        if (count == WORDS_MAX)
            return -E2BIG;
        program->argv[count++] = (char *)(uintptr_t)(words->text + at);
    }
    program->argv[count] = NULL;
    return 0;
}

/* The whole sandbox is limited: one thread moves itself, and what it starts is born there. */
static sysret join_cgroups(const struct sandbox *sandbox)
{
    const struct agent_cgroups *cgroups = &sandbox->cgroups;
    sysret result = 0;
    for (unsigned i = 0; i < cgroups->v1_count && result >= 0; i++)
        result = SYS(write, cgroups->v1_tasks[i], "0", 1);
    if (result >= 0 && cgroups->v2_procs >= 0)
        result = SYS(write, cgroups->v2_procs, "0", 1);
    return result;
}

static sysret open_streams(struct program *program)
{
    int pair[2], report[2];
    sysret result = SYS(socketpair, AK_AF_UNIX, AK_SOCK_STREAM | O_CLOEXEC, 0, pair);
    if (result < 0)
        return result;
    result = descriptor_pipe(report);
    program->near = pair[0];
    program->far = pair[1];
    program->reading = report[0];
    program->reported = report[1];
    return result;
}

static _Noreturn void execute(const struct program *program)
{
    char *environment[] = {NULL};
    int keep[] = {0, 1, 2, program->reported};
    int error;
    (void)SYS(dup3, program->far, 0, 0);
    (void)SYS(dup3, program->far, 1, 0);
    (void)SYS(dup3, program->log, 2, 0);
    descriptor_close_others(keep, sizeof keep / sizeof *keep);
    error = (int)SYS(execve, program->path, program->argv, environment);
    (void)ak_write_all(program->reported, &error, sizeof error);
    ak_exit(127);
}

/* The pid of the program, once it runs, or -errno. */
static sysret start(struct program *program)
{
    int error = 0;
    sysret got, pid = process_fork();
    if (pid == 0)
        execute(program);
    descriptor_close(&program->far);
    descriptor_close(&program->reported);
    descriptor_close(&program->log);
    if (pid < 0)
        return pid;
    do
        got = SYS(read, program->reading, &error, sizeof error);
    while (got == -EINTR);
    descriptor_close(&program->reading);
    return got == 0 ? pid : got < 0 ? got : error;
}

static sysret prepare(const struct sandbox *sandbox, const struct plan_step *step, struct program *program)
{
    sysret result = split(&step->arguments[3], program);
    program->listener = (int)step->arguments[0].number;
    program->log = (int)step->arguments[1].number;
    program->path = step->arguments[2].text;
    if (result >= 0)
        result = SYS(unshare, CLONE_FILES);
    if (result >= 0)
        result = join_cgroups(sandbox);
    return result < 0 ? result : open_streams(program);
}

sysret step_program(struct sandbox *sandbox, const struct plan_step *step)
{
    struct program program = {0};
    sysret pid = prepare(sandbox, step, &program);
    int keep[] = {0, 1, 2, program.listener, program.near, sandbox->status_fd};
    if (pid < 0)
        return pid;
    (void)SYS(umask, UMASK);
    pid = start(&program);
    if (pid < 0)
        return pid;
    descriptor_close_others(keep, sizeof keep / sizeof *keep);
    if (status_send(sandbox->status_fd, (struct status_record){.kind = STATUS_READY}) < 0)
        ak_exit(1); /* the caller is gone: nobody knows of this sandbox */
    (void)SYS(close, sandbox->status_fd);
    ak_unmap(sandbox->plan, sandbox->plan_bytes);
    keeper_serve(program.listener, program.near, (int)pid);
}
