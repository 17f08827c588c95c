/* A disk under control, preloaded into an unmodified program.

   Every change below the directory DISK_ROOT is made and then written to the journal DISK_JOURNAL, data included, before the
   call returns: what was told to anybody stands in the journal before it was told. One mutex makes the journal's order the
   order in which things happened. tests/faults/disk/journal.py reads it.

   Through the control page the tests let files grow no further (ENOSPC), fsync fail (EIO) or wait, or refuse every change
   (EROFS).
   A failed fsync fails without having synced: what was written before it is the reconstruction's to lose.

   clock.c has the clocks. Both know the program only by the names of libc; what is linked statically passes them by, and the
   tests assert that the counters moved. */
#define _GNU_SOURCE
#include "control.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { CREATE = 1, OPEN, WRITE, TRUNCATE, SYNC, SYNC_FAILED, RENAME, UNLINK, MAKE_DIRECTORY, SYNC_DIRECTORY };

struct record {
    uint32_t magic;
    uint32_t kind;
    uint64_t inode;
    uint64_t offset; /* of a WRITE; the new length of a TRUNCATE */
    uint32_t path_bytes;
    uint32_t data_bytes;
};

#define MAGIC 0x4b534944u /* "DISK" */
#define MAX_FILES 65536

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int journal = -1;
static char *open_paths[MAX_FILES]; /* relative to root, by descriptor; NULL for everything else */

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int real_open(const char *path, int flags, mode_t mode) {
    REAL(open64);
    return real(path, flags, mode);
}

static ssize_t real_write(int fd, const void *data, size_t size) {
    REAL(write);
    return real(fd, data, size);
}

static ssize_t real_pwrite(int fd, const void *data, size_t size, off64_t offset) {
    REAL(pwrite64);
    return real(fd, data, size, offset);
}

static void fail(const char *what) {
    dprintf(2, "disk control: %s: %s\n", what, strerror(errno));
    abort();
}

struct control *control(void) {
    static struct control nothing = {.space = -1, .sync_delay = -1};
    static struct control *shared;
    if (shared) return shared;
    const char *path = getenv("DISK_CONTROL");
    if (!path) return shared = &nothing;
    int fd = real_open(path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) fail(path);
    void *page = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) fail(path);
    REAL(close);
    real(fd);
    return shared = page;
}

__attribute__((constructor)) static void begin(void) {
    const char *directory = getenv("DISK_ROOT"), *log = getenv("DISK_JOURNAL");
    control();
    if (directory && realpath(directory, root)) root_length = strlen(root);
    if (log && (journal = real_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0) fail(log);
}

static void enter(void) { pthread_mutex_lock(&order); }

/* A process that dies elsewhere may have done what it did not write down. */
static void leave(void) {
    if (control()->die) kill(getpid(), SIGKILL);
    pthread_mutex_unlock(&order);
}

/* --- where things are ------------------------------------------------------------------------------------------------ */

/* The path below the root, in `place`; NULL for one that is elsewhere. "" is the root itself. */
static const char *below_root(int at, const char *path, char place[PATH_MAX]) {
    char joined[PATH_MAX * 2], parent[PATH_MAX];
    if (!root_length || !path) return NULL;
    if (path[0] != '/') {
        char base[PATH_MAX], link[64];
        if (at == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return NULL;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            ssize_t size = readlink(link, base, sizeof base - 1);
            if (size < 0) return NULL;
            base[size] = 0;
        }
        if ((size_t)snprintf(joined, sizeof joined, "%s/%s", base, path) >= sizeof joined) return NULL;
    } else if ((size_t)snprintf(joined, sizeof joined, "%s", path) >= sizeof joined) {
        return NULL;
    }
    if (!strncmp(joined, root, root_length) && (joined[root_length] == '/' || !joined[root_length]) &&
        !strstr(joined, "/..") && !strstr(joined, "//") && !strstr(joined, "/./")) {
        snprintf(place, PATH_MAX, "%s", joined + root_length + (joined[root_length] == '/'));
        return place;
    }
    /* The last part may not exist yet: what counts is where its directory really is. */
    char *slash = strrchr(joined, '/');
    char last[PATH_MAX];
    if (!slash) return NULL;
    snprintf(last, sizeof last, "%s", slash + 1);
    *slash = 0;
    if (!realpath(*joined ? joined : "/", parent) || strncmp(parent, root, root_length)) return NULL;
    if (parent[root_length] && parent[root_length] != '/') return NULL;
    const char *inner = parent + root_length + (parent[root_length] == '/');
    if ((size_t)snprintf(place, PATH_MAX, "%s%s%s", inner, *inner ? "/" : "", last) >= PATH_MAX) return NULL;
    return place;
}

static const char *path_of(int fd) { return fd >= 0 && fd < MAX_FILES ? open_paths[fd] : NULL; }

static int ends(const char *text, const char *tail) {
    size_t length = strlen(text), size = strlen(tail);
    return length >= size && !strcmp(text + length - size, tail);
}

static enum file_class class_of(const char *path) {
    if (ends(path, "-wal")) return WAL;
    if (ends(path, ".db")) return DATABASE;
    if (ends(path, "-journal") || strstr(path, "etilqs_")) return TEMPORARY;
    return OTHER;
}

static uint64_t inode_of(int fd) {
    struct stat64 facts;
    return fstat64(fd, &facts) ? 0 : facts.st_ino;
}

static int64_t size_of(int fd) {
    struct stat64 facts;
    return fstat64(fd, &facts) ? 0 : facts.st_size;
}

/* --- the journal ----------------------------------------------------------------------------------------------------- */

static void note(enum kind kind, uint64_t inode, uint64_t offset, const char *path, const char *other, const void *data,
                 size_t size) {
    if (journal < 0) return;
    size_t path_bytes = strlen(path) + (other ? strlen(other) + 1 : 0);
    char head[sizeof(struct record) + 2 * PATH_MAX];
    struct record record = {MAGIC, kind, inode, offset, (uint32_t)path_bytes, (uint32_t)size};
    memcpy(head, &record, sizeof record);
    memcpy(head + sizeof record, path, strlen(path));
    if (other) {
        head[sizeof record + strlen(path)] = 0;
        memcpy(head + sizeof record + strlen(path) + 1, other, strlen(other));
    }
    struct iovec parts[2] = {{head, sizeof record + path_bytes}, {(void *)data, size}};
    REAL(writev);
    ssize_t wanted = (ssize_t)(parts[0].iov_len + size);
    if (real(journal, parts, 2) != wanted) fail("the journal");
    __atomic_add_fetch(&control()->journal_bytes, wanted, __ATOMIC_SEQ_CST);
}

static int refused(int error) {
    __atomic_add_fetch(&control()->refused_writes, 1, __ATOMIC_SEQ_CST);
    errno = error;
    return -1;
}

/* 0, or -1 with errno where the file may not be changed, or not grow to `end`. */
static int allow(int fd, const char *path, int64_t end) {
    struct control *shared = control();
    if (shared->read_only) return refused(EROFS);
    int64_t growth = end - size_of(fd);
    if (growth <= 0) return 0;
    if (shared->full & class_of(path)) return refused(ENOSPC);
    if (shared->space >= 0) {
        if (growth > shared->space) return refused(ENOSPC);
        shared->space -= growth;
    }
    return 0;
}

static void give_back(int64_t size) {
    if (control()->space >= 0 && size > 0) control()->space += size;
}

/* --- opening --------------------------------------------------------------------------------------------------------- */

static int opened(int at, const char *path, int flags, mode_t mode) {
    char place[PATH_MAX];
    const char *inner = below_root(at, path, place);
    REAL(openat64);
    if (!inner) return real(at, path, flags, mode);
    enter();
    struct stat64 before;
    int there = !fstatat64(at, path, &before, 0);
    int changes = (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC || (flags & O_CREAT && !there);
    int fd = -1;
    if (changes && control()->read_only) {
        refused(EROFS);
    } else if (flags & O_CREAT && !there && control()->space == 0) {
        refused(ENOSPC);
    } else {
        fd = real(at, path, flags, mode);
    }
    if (fd >= 0 && fd < MAX_FILES) {
        free(open_paths[fd]);
        open_paths[fd] = strdup(inner);
        if (class_of(inner) == TEMPORARY) __atomic_add_fetch(&control()->temporary_opens, 1, __ATOMIC_SEQ_CST);
        if (there && S_ISREG(before.st_mode)) note(OPEN, inode_of(fd), 0, inner, NULL, NULL, 0);
        if (!there) note(CREATE, inode_of(fd), 0, inner, NULL, NULL, 0);
        if (there && flags & O_TRUNC) {
            give_back(before.st_size);
            note(TRUNCATE, inode_of(fd), 0, inner, NULL, NULL, 0);
        }
    }
    int error = errno;
    leave();
    errno = error;
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags | O_LARGEFILE, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int __open_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags | O_LARGEFILE, 0); }
int __openat_2(int at, const char *path, int flags) { return opened(at, path, flags, 0); }
int __openat64_2(int at, const char *path, int flags) { return opened(at, path, flags | O_LARGEFILE, 0); }

int close(int fd) {
    REAL(close);
    if (!path_of(fd)) return real(fd);
    enter();
    free(open_paths[fd]);
    open_paths[fd] = NULL;
    int result = real(fd);
    leave();
    return result;
}

/* --- writing --------------------------------------------------------------------------------------------------------- */

static ssize_t written(int fd, const void *data, size_t size, off64_t offset, int moves) {
    const char *path = path_of(fd);
    enter();
    if (moves) offset = lseek64(fd, 0, SEEK_CUR);
    ssize_t result = -1;
    if (!allow(fd, path, offset + (int64_t)size)) {
        result = moves ? real_write(fd, data, size) : real_pwrite(fd, data, size, offset);
        if (result > 0) {
            __atomic_add_fetch(&control()->writes, 1, __ATOMIC_SEQ_CST);
            note(WRITE, inode_of(fd), (uint64_t)offset, path, NULL, data, (size_t)result);
        }
    }
    int error = errno;
    leave();
    errno = error;
    return result;
}

/* One part at a time: each is a write of its own, which is as much as a disk promises of the whole. */
static ssize_t written_parts(int fd, const struct iovec *parts, int count, off64_t offset, int moves) {
    ssize_t total = 0;
    for (int number = 0; number < count; number++) {
        ssize_t size = written(fd, parts[number].iov_base, parts[number].iov_len, offset + total, moves);
        if (size < 0) return total ? total : -1;
        total += size;
        if ((size_t)size < parts[number].iov_len) break;
    }
    return total;
}

ssize_t write(int fd, const void *data, size_t size) {
    return path_of(fd) ? written(fd, data, size, 0, 1) : real_write(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return path_of(fd) ? written(fd, data, size, offset, 0) : real_pwrite(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    return path_of(fd) ? written(fd, data, size, offset, 0) : real_pwrite(fd, data, size, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    return path_of(fd) ? written_parts(fd, parts, count, 0, 1) : real(fd, parts, count);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    REAL(pwritev);
    return path_of(fd) ? written_parts(fd, parts, count, offset, 0) : real(fd, parts, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    REAL(pwritev64);
    return path_of(fd) ? written_parts(fd, parts, count, offset, 0) : real(fd, parts, count, offset);
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    const char *path = path_of(fd);
    if (!path) return real(fd, length);
    enter();
    int64_t before = size_of(fd);
    int result = -1;
    if (!allow(fd, path, length) && !(result = real(fd, length))) {
        give_back(before - length);
        note(TRUNCATE, inode_of(fd), (uint64_t)length, path, NULL, NULL, 0);
    }
    int error = errno;
    leave();
    errno = error;
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int allocated(int fd, off64_t offset, off64_t length) {
    const char *path = path_of(fd);
    REAL(fallocate64);
    enter();
    int64_t before = size_of(fd);
    int result = -1;
    if (!allow(fd, path, offset + length) && !(result = real(fd, 0, offset, length)) && offset + length > before)
        note(TRUNCATE, inode_of(fd), (uint64_t)(offset + length), path, NULL, NULL, 0);
    int error = errno;
    leave();
    errno = error;
    return result;
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    REAL(fallocate64);
    return path_of(fd) && !mode ? allocated(fd, offset, length) : real(fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    REAL(posix_fallocate64);
    if (!path_of(fd)) return real(fd, offset, length);
    return allocated(fd, offset, length) ? errno : 0;
}

int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

/* --- syncing --------------------------------------------------------------------------------------------------------- */

/* Whether this sync is one of those that fail. */
static int sync_fails(const char *path) {
    struct control *shared = control();
    if (shared->sync_delay < 0 || !(shared->sync_classes & class_of(path))) return 0;
    if (shared->sync_delay > 0) {
        shared->sync_delay--;
        return 0;
    }
    if (shared->sync_faults == 0) {
        shared->sync_delay = -1;
        return 0;
    }
    if (shared->sync_faults > 0) shared->sync_faults--;
    return 1;
}

static void wait_while_still(void) {
    if (!control()->still) return;
    __atomic_add_fetch(&control()->held_syncs, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&control()->still, __ATOMIC_SEQ_CST)) usleep(1000);
}

static int synced(int fd, int (*real)(int)) {
    const char *path = path_of(fd);
    struct stat64 facts;
    wait_while_still();
    enter();
    int directory = !fstat64(fd, &facts) && S_ISDIR(facts.st_mode);
    int result;
    if (sync_fails(path)) {
        __atomic_add_fetch(&control()->refused_syncs, 1, __ATOMIC_SEQ_CST);
        note(SYNC_FAILED, facts.st_ino, 0, path, NULL, NULL, 0);
        errno = EIO;
        result = -1;
    } else if (!(result = real(fd))) {
        __atomic_add_fetch(&control()->syncs, 1, __ATOMIC_SEQ_CST);
        note(directory ? SYNC_DIRECTORY : SYNC, facts.st_ino, 0, path, NULL, NULL, 0);
    }
    int error = errno;
    leave();
    errno = error;
    return result;
}

int fsync(int fd) {
    REAL(fsync);
    return path_of(fd) ? synced(fd, real) : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return path_of(fd) ? synced(fd, real) : real(fd);
}

/* --- names ----------------------------------------------------------------------------------------------------------- */

static int renamed(int from_at, const char *from, int to_at, const char *to) {
    char from_place[PATH_MAX], to_place[PATH_MAX];
    const char *inner_from = below_root(from_at, from, from_place), *inner_to = below_root(to_at, to, to_place);
    REAL(renameat);
    if (!inner_from || !inner_to) return real(from_at, from, to_at, to);
    enter();
    int result = control()->read_only ? refused(EROFS) : real(from_at, from, to_at, to);
    if (!result) note(RENAME, 0, 0, inner_from, inner_to, NULL, 0);
    int error = errno;
    leave();
    errno = error;
    return result;
}

int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int from_at, const char *from, int to_at, const char *to) { return renamed(from_at, from, to_at, to); }

static int unlinked(int at, const char *path, int flags) {
    char place[PATH_MAX];
    const char *inner = below_root(at, path, place);
    REAL(unlinkat);
    if (!inner) return real(at, path, flags);
    enter();
    struct stat64 facts;
    int64_t size = fstatat64(at, path, &facts, AT_SYMLINK_NOFOLLOW) ? 0 : facts.st_size;
    int result = control()->read_only ? refused(EROFS) : real(at, path, flags);
    if (!result) {
        if (!flags) give_back(size);
        note(UNLINK, 0, 0, inner, NULL, NULL, 0);
    }
    int error = errno;
    leave();
    errno = error;
    return result;
}

int unlink(const char *path) { return unlinked(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return unlinked(at, path, flags); }
int rmdir(const char *path) { return unlinked(AT_FDCWD, path, AT_REMOVEDIR); }

static int made(int at, const char *path, mode_t mode) {
    char place[PATH_MAX];
    const char *inner = below_root(at, path, place);
    REAL(mkdirat);
    if (!inner) return real(at, path, mode);
    enter();
    int result = control()->read_only ? refused(EROFS) : real(at, path, mode);
    if (!result) note(MAKE_DIRECTORY, 0, 0, inner, NULL, NULL, 0);
    int error = errno;
    leave();
    errno = error;
    return result;
}

int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return made(at, path, mode); }

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset) {
    REAL(mmap64);
    if (path_of(fd) && flags & MAP_SHARED && protection & PROT_WRITE)
        __atomic_add_fetch(&control()->shared_maps, 1, __ATOMIC_SEQ_CST);
    return real(address, size, protection, flags, fd, offset);
}
