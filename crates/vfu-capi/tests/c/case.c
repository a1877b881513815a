#define _GNU_SOURCE
#include "case.h"

#include <ftw.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* "Never", in seconds: what takes longer hangs. Valgrind is slow. CASE_SECONDS says otherwise. */
#define NEVER 120

static struct test_case *first, **last = &first;

void case_add(struct test_case *one)
{
    *last = one;
    last = &one->next;
}

void case_failed(const char *file, int line, const char *what, const char *why)
{
    fprintf(stderr, "    %s:%d: %s %s (errno %d: %s)\n", file, line, what, why, errno, strerror(errno));
    exit(1);
}

void case_failed_eq(const char *file, int line, const char *what, long long got, long long want)
{
    fprintf(stderr, "    %s:%d: %s is %lld, not %lld (errno %d: %s)\n", file, line, what, got, want, errno,
            strerror(errno));
    exit(1);
}

void case_skip(const char *why)
{
    fprintf(stderr, "    skipped: %s\n", why);
    exit(77);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static unsigned never(void)
{
    const char *seconds = getenv("CASE_SECONDS");

    return seconds != NULL ? atoi(seconds) : NEVER;
}

static int run_one(const struct test_case *one)
{
    char folder[] = "/tmp/vfu-case-XXXXXX";
    int status;
    pid_t pid;

    if (mkdtemp(folder) == NULL) {
        perror(folder);
        return 1;
    }
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        if (chdir(folder) != 0)
            exit(1);
        alarm(never());
        one->run();
        exit(0);
    }
    waitpid(pid, &status, 0);
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    if (WIFSIGNALED(status))
        printf("FAILED %s: %s\n", one->name, WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) == 77)
        printf("skipped %s\n", one->name);
    else if (WEXITSTATUS(status) != 0)
        printf("FAILED %s\n", one->name);
    else
        printf("ok %s\n", one->name);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        return 0;
    return status != 0;
}

/* Without arguments: all cases. --list: only names. Else those whose names begin with one of the arguments. */
int main(int argc, char **argv)
{
    int cases = 0, failed = 0;

    for (struct test_case *one = first; one != NULL; one = one->next) {
        bool wanted = argc == 1 || strcmp(argv[1], "--list") == 0;
        for (int i = 1; i < argc; i++)
            wanted = wanted || strncmp(one->name, argv[i], strlen(argv[i])) == 0;
        if (!wanted)
            continue;
        cases++;
        if (argc > 1 && strcmp(argv[1], "--list") == 0)
            printf("%s\n", one->name);
        else
            failed += run_one(one);
    }
    printf("%d cases, %d failed\n", cases, failed);
    return failed != 0 || cases == 0;
}
