/* A small test harness: each case runs in a process and a folder of its own, so that a crash is one failure. */
#ifndef CASE_H
#define CASE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test_case {
    const char *name;
    void (*run)(void);
    struct test_case *next;
};

void case_add(struct test_case *one);
_Noreturn void case_failed(const char *file, int line, const char *what, const char *why);
_Noreturn void case_failed_eq(const char *file, int line, const char *what, long long got, long long want);
/* Ends the case: this library has not what it is about. */
_Noreturn void case_skip(const char *why);

#define CASE(name)                                                                                                     \
    static void name(void);                                                                                            \
    static struct test_case name##_case = {#name, name, NULL};                                                         \
    __attribute__((constructor)) static void name##_add(void)                                                          \
    {                                                                                                                  \
        case_add(&name##_case);                                                                                        \
    }                                                                                                                  \
    static void name(void)

#define CHECK(is_so)                                                                                                   \
    do {                                                                                                               \
        if (!(is_so))                                                                                                  \
            case_failed(__FILE__, __LINE__, #is_so, "is not so");                                                      \
    } while (0)

#define EQ(got, want)                                                                                                  \
    do {                                                                                                               \
        long long got_ = (long long)(got), want_ = (long long)(want);                                                  \
        if (got_ != want_)                                                                                             \
            case_failed_eq(__FILE__, __LINE__, #got, got_, want_);                                                     \
    } while (0)

/* The call gives -1 with this errno. */
#define FAILS(call, number)                                                                                            \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        EQ(call, -1);                                                                                                  \
        EQ(errno, number);                                                                                             \
    } while (0)

#endif
