// Loaded into a node before its own libraries: makes its disk slow, hung, failing or full, and its
// clocks jump or run at another rate, as a file says that both sides map. Counts what it did, so
// that a fault which never met its node is noticed.
//
// FAULTS_CONTROL names the file, FAULTS_DATA the directory whose files are meant.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

// As preload.rs lists them.
enum { SYNC_DELAY_MS, SYNC_HANGS, SYNC_ERROR, WRITE_ERROR, CLOCKS, COUNTS = CLOCKS + 9, CELLS = 64 };
// Of each clock.
enum { OFFSET, RATE, SINCE, PER_CLOCK };
enum { COUNT_SYNCS, COUNT_WRITES, COUNT_CLOCKS };

static volatile int64_t *control;
static const char *data;
static size_t data_length;
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_clock)(clockid_t, struct timespec *);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);

__attribute__((constructor)) static void begin(void) {
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  real_clock = dlsym(RTLD_NEXT, "clock_gettime");
  real_write = dlsym(RTLD_NEXT, "write");
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  // A node never outlives the test that started it.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const char *path = getenv("FAULTS_CONTROL");
  data = getenv("FAULTS_DATA");
  if (!path || !data) return;
  data_length = strlen(data);
  int file = open(path, O_RDWR | O_CLOEXEC);
  if (file < 0) return;
  void *cells = mmap(NULL, CELLS * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (cells != MAP_FAILED) control = cells;
}

static void counted(int what) { __atomic_fetch_add(&control[COUNTS + what], 1, __ATOMIC_RELAXED); }

static int ours(int file) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  return length >= (ssize_t)data_length && memcmp(path, data, data_length) == 0;
}

// Non-zero: the sync fails with it.
static int before_sync(int file) {
  if (!control || !(control[SYNC_DELAY_MS] || control[SYNC_HANGS] || control[SYNC_ERROR])) return 0;
  if (!ours(file)) return 0;
  counted(COUNT_SYNCS);
  if (control[SYNC_DELAY_MS]) usleep(1000 * (useconds_t)control[SYNC_DELAY_MS]);
  while (control[SYNC_HANGS]) usleep(5000);
  return (int)control[SYNC_ERROR];
}

int fsync(int file) {
  int error = before_sync(file);
  if (!error) return real_fsync(file);
  errno = error;
  return -1;
}

int fdatasync(int file) {
  int error = before_sync(file);
  if (!error) return real_fdatasync(file);
  errno = error;
  return -1;
}

// True where the write is to fail; errno says why.
static int write_fails(int file) {
  if (!control || !control[WRITE_ERROR] || !ours(file)) return 0;
  counted(COUNT_WRITES);
  errno = (int)control[WRITE_ERROR];
  return 1;
}

ssize_t write(int file, const void *bytes, size_t length) {
  return write_fails(file) ? -1 : real_write(file, bytes, length);
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off_t at) {
  return write_fails(file) ? -1 : real_pwrite(file, bytes, length, at);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t at) {
  return pwrite64(file, bytes, length, at);
}

static int cell_of(clockid_t clock) {
  switch (clock) {
    case CLOCK_BOOTTIME: return CLOCKS;
    case CLOCK_MONOTONIC_RAW: return CLOCKS + PER_CLOCK;
    case CLOCK_REALTIME: return CLOCKS + 2 * PER_CLOCK;
    default: return -1;
  }
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  int code = real_clock(clock, time);
  int cell = control ? cell_of(clock) : -1;
  if (code || cell < 0 || !(control[cell + OFFSET] || control[cell + RATE])) return code;
  int64_t now = time->tv_sec * 1000000000LL + time->tv_nsec;
  int64_t told = now + control[cell + OFFSET];
  if (control[cell + RATE]) {
    told += (int64_t)((double)(now - control[cell + SINCE]) * (double)control[cell + RATE] / 1e6);
  }
  time->tv_sec = told / 1000000000LL;
  time->tv_nsec = told % 1000000000LL;
  counted(COUNT_CLOCKS);
  return 0;
}
