/* What the tests and the library share: one page, mapped from the file DISK_CONTROL names. tests/faults/disk/control.py
   has the same words in the same order. */
#ifndef CONTROL_H
#define CONTROL_H

#include <stdint.h>

enum file_class { DATABASE = 1, WAL = 2, TEMPORARY = 4, OTHER = 8 };

struct control {
    /* Written by the library. */
    int64_t journal_bytes;   /* length of the journal: what it says up to there had returned to its caller */
    int64_t writes;          /* calls that wrote, below the directory */
    int64_t syncs;           /* fsync and fdatasync that succeeded */
    int64_t refused_writes;  /* answered with ENOSPC or EROFS */
    int64_t refused_syncs;   /* answered with EIO */
    int64_t clock_reads;     /* of the wall clock */
    int64_t temporary_opens; /* files of class TEMPORARY opened */
    int64_t shared_maps;     /* writable shared mappings: writes the library would not see */
    int64_t held_syncs;      /* that came to the disk while it stood still */
    int64_t unused[7];
    /* Written by the tests, at any time. */
    int64_t space;        /* bytes that files may still grow by; negative: no bound */
    int64_t full;         /* classes that cannot grow at all */
    int64_t sync_delay;   /* syncs that still succeed before some fail; negative: none fails */
    int64_t sync_faults;  /* how many fail then; negative: all */
    int64_t sync_classes; /* classes whose syncs count and fail */
    int64_t read_only;    /* every change is answered with EROFS */
    int64_t wall_offset;  /* seconds the wall clock is off by */
    int64_t die;          /* SIGKILL once the next operation is done and written down */
    int64_t still;        /* the disk stands still: syncs wait */
};

/* The shared page, or a private one with nothing set where no file was named. */
struct control *control(void);

#endif
