/* Directories, files and symlinks of the new root. What is there already is replaced, never written through: an image may have put a link there. */
#include "sandbox.h"

#include "beneath.h"
#include "kernel.h"

#include <asm/stat.h>
#include <linux/fcntl.h>

#define FILE_CREATE_FLAGS (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)

static sysret own_directory(int fd, uint32_t mode, uint32_t uid, uint32_t gid)
{
    struct stat what;
    sysret result = SYS(fstat, fd, &what);
    if (result >= 0 && (what.st_uid != uid || what.st_gid != gid))
        result = SYS(fchown, fd, uid, gid);
    if (result >= 0 && (what.st_mode & 07777) != mode)
        result = SYS(fchmod, fd, mode);
    return result;
}

sysret step_mkdir(struct sandbox *sandbox, const struct plan_step *step)
{
    const struct plan_value *arguments = step->arguments;
    const char *name;
    sysret result, fd, parent = beneath_parent(sandbox->root, arguments[0].text, &name);
    if (parent < 0)
        return parent;
    result = SYS(mkdirat, parent, name, arguments[1].number);
    fd = result < 0 && result != -EEXIST ? result : SYS(openat, parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    ak_close(parent);
    if (fd < 0)
        return fd;
    result = own_directory((int)fd, (uint32_t)arguments[1].number, (uint32_t)arguments[2].number, (uint32_t)arguments[3].number);
    ak_close(fd);
    return result;
}

sysret step_file(struct sandbox *sandbox, const struct plan_step *step)
{
    const struct plan_value *arguments = step->arguments;
    const char *name;
    sysret result, fd, parent = beneath_parent(sandbox->root, arguments[0].text, &name);
    if (parent < 0)
        return parent;
    fd = SYS(openat, parent, name, FILE_CREATE_FLAGS, arguments[1].number);
    if (fd == -EEXIST && (fd = SYS(unlinkat, parent, name, 0)) == 0)
        fd = SYS(openat, parent, name, FILE_CREATE_FLAGS, arguments[1].number);
    ak_close(parent);
    if (fd < 0)
        return fd;
    result = ak_write_all((int)fd, arguments[2].text, arguments[2].length);
    ak_close(fd);
    return result;
}

sysret step_symlink(struct sandbox *sandbox, const struct plan_step *step)
{
    const char *target = step->arguments[0].text, *name;
    sysret result, parent = beneath_parent(sandbox->root, step->arguments[1].text, &name);
    if (parent < 0)
        return parent;
    result = SYS(symlinkat, target, parent, name);
    if (result == -EEXIST && (result = SYS(unlinkat, parent, name, 0)) == 0)
        result = SYS(symlinkat, target, parent, name);
    ak_close(parent);
    return result;
}
