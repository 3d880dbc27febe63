/* Preloaded into a process: its wall clock is that of the machine and as many seconds more or less as a file says.

   Only CLOCK_REALTIME is moved, as when somebody sets the time of a machine: what is monotonic stays so. Waits until a
   time of the wall clock are moved back before the kernel, which knows nothing of this, hears of them.
   The file, named by JUMPING_CLOCK, holds one 64-bit number and may be changed at any time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Deadlines of the monotonic clock are seconds since the start of a machine; those of the wall clock, since 1970. */
#define WALL(when) ((when)->tv_sec > 1000000000)

static const volatile long long *seconds;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("JUMPING_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED) seconds = found;
}

static long long jumped(void) { return seconds ? *seconds : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += jumped();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int failed = clock_gettime(CLOCK_REALTIME, &precise);
    if (!failed && now) *now = (struct timeval){precise.tv_sec, precise.tv_nsec / 1000};
    return failed;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}

static struct timespec real(const struct timespec *when) {
    struct timespec moved = *when;
    if (WALL(when)) moved.tv_sec -= jumped();
    return moved;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict when) {
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!next) next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    struct timespec moved = real(when);
    return next(cond, mutex, &moved);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict when) {
    static int (*next)(sem_t *, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec moved = real(when);
    return next(semaphore, &moved);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict when) {
    static int (*next)(pthread_mutex_t *, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    struct timespec moved = real(when);
    return next(mutex, &moved);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *when, struct timespec *left) {
    struct timespec moved = clock == CLOCK_REALTIME && flags & TIMER_ABSTIME ? real(when) : *when;
    long failed = syscall(SYS_clock_nanosleep, clock, flags, &moved, left);
    return failed < 0 ? -(int)failed : 0;
}

/* gRPC's threads wait by a futex of their own (absl), with a deadline of the wall clock, and not by the C library. */
long syscall(long number, ...) {
    static long (*next)(long, ...);
    if (!next) next = dlsym(RTLD_NEXT, "syscall");
    long given[6];
    va_list arguments;
    va_start(arguments, number);
    for (int index = 0; index < 6; index++) given[index] = va_arg(arguments, long);
    va_end(arguments);
    struct timespec moved;
    if (number == SYS_futex && given[1] & FUTEX_CLOCK_REALTIME && given[3]) {
        moved = real((const struct timespec *)given[3]);
        given[3] = (long)&moved;
    }
    return next(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}
