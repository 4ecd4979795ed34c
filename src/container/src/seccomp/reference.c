/* For tests: what libseccomp makes of a profile.
 *
 * With "names", prints "ARCH NUMBER NAME" for every call libseccomp knows on x86. Otherwise reads a profile from
 * standard input, a word per field, and writes its program to standard output:
 *   init ACTION | arch TOKEN | rule ACTION NAME COUNT {ARGUMENT OPERATOR VALUE VALUE}*COUNT
 */
#include <errno.h>
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *what, const char *subject, int code)
{
    fprintf(stderr, "%s %s: %s\n", what, subject, strerror(-code));
    exit(1);
}

static int names(void)
{
    const uint32_t tokens[] = {SCMP_ARCH_X86_64, SCMP_ARCH_X32, SCMP_ARCH_X86};
    for (int t = 0; t < 3; t++)
        for (int number = 0; number < 700; number++) {
            int asked = t == 1 ? number | 0x40000000 : number;
            char *name = seccomp_syscall_resolve_num_arch(tokens[t], asked);
            if (name)
                printf("%d %d %s\n", t, number, name);
            free(name);
        }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "names"))
        return names();
    scmp_filter_ctx context = NULL;
    char word[16], name[64];
    uint32_t action;
    while (scanf("%15s %" SCNu32, word, &action) == 2) {
        int code = 0;
        if (!strcmp(word, "init")) {
            context = seccomp_init(action);
        } else if (!strcmp(word, "arch")) {
            code = seccomp_arch_add(context, action);
            if (code && code != -EEXIST)
                fail("arch", "", code);
        } else {
            unsigned count;
            struct scmp_arg_cmp args[6];
            if (scanf("%63s %u", name, &count) != 2 || count > 6)
                fail("rule", name, 0);
            for (unsigned i = 0; i < count; i++) {
                unsigned operator;
                if (scanf("%u %u %" SCNu64 " %" SCNu64, &args[i].arg, &operator, &args[i].datum_a,
                          &args[i].datum_b) != 4)
                    fail("argument of", name, 0);
                args[i].op = operator;
            }
            int number = seccomp_syscall_resolve_name(name);
            if (number == __NR_SCMP_ERROR)
                continue;
            code = seccomp_rule_add_array(context, action, number, count, args);
            if (code)
                fail("rule", name, code);
        }
    }
    int code = seccomp_export_bpf(context, 1);
    if (code)
        fail("export", "", code);
    return 0;
}
