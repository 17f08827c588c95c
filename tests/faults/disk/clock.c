/* A wall clock that is off by as many seconds as the control page says, and a monotonic clock that is not.

   Who waits until a wall-clock instant gave the kernel an instant of the wrong clock, so that one is put right on the way. */
#define _GNU_SOURCE
#include "control.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int real_clock(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    return real(clock, now);
}

static int64_t offset(void) {
    __atomic_add_fetch(&control()->clock_reads, 1, __ATOMIC_RELAXED);
    return control()->wall_offset;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = real_clock(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    real_clock(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec + offset();
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    real_clock(CLOCK_REALTIME, &exact);
    time_t seconds = exact.tv_sec + offset();
    if (now) *now = seconds;
    return seconds;
}

int timespec_get(struct timespec *now, int base) {
    if (base != TIME_UTC) return 0;
    clock_gettime(CLOCK_REALTIME, now);
    return base;
}

/* --- waits until an instant ------------------------------------------------------------------------------------------- */

static const struct timespec *put_right(const struct timespec *until, struct timespec *right) {
    if (!until) return NULL;
    *right = *until;
    right->tv_sec -= control()->wall_offset;
    if (right->tv_sec < 0) right->tv_sec = 0;
    return right;
}

/* A condition variable does not say whose clock it waits by; the instant is nearer to the one it was read from. */
static int is_wall(const struct timespec *until) {
    struct timespec wall, since_boot;
    real_clock(CLOCK_REALTIME, &wall);
    real_clock(CLOCK_MONOTONIC, &since_boot);
    return llabs((long long)until->tv_sec - (wall.tv_sec + control()->wall_offset)) <
           llabs((long long)until->tv_sec - since_boot.tv_sec);
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    struct timespec right;
    /* On x86-64 the name without a version is that of an older layout. */
    if (!real) real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real) real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    return real(condition, mutex, is_wall(until) ? put_right(until, &right) : until);
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *until) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
    struct timespec right;
    if (!real) real = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    return real(condition, mutex, clock, clock == CLOCK_REALTIME ? put_right(until, &right) : until);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static int (*real)(sem_t *, const struct timespec *);
    struct timespec right;
    if (!real) real = dlsym(RTLD_NEXT, "sem_timedwait");
    return real(semaphore, put_right(until, &right));
}

int sem_clockwait(sem_t *restrict semaphore, clockid_t clock, const struct timespec *restrict until) {
    static int (*real)(sem_t *, clockid_t, const struct timespec *);
    struct timespec right;
    if (!real) real = dlsym(RTLD_NEXT, "sem_clockwait");
    return real(semaphore, clock, clock == CLOCK_REALTIME ? put_right(until, &right) : until);
}

long syscall(long number, ...) {
    static long (*real)(long, ...);
    long a[6];
    va_list rest;
    struct timespec right;
    va_start(rest, number);
    for (int index = 0; index < 6; index++) a[index] = va_arg(rest, long);
    va_end(rest);
    if (!real) real = dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_futex && a[1] & FUTEX_CLOCK_REALTIME && a[3])
        a[3] = (long)put_right((const struct timespec *)a[3], &right);
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
