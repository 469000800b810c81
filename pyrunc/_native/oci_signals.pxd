# cython: cdivision=True, boundscheck=False
# The names of signals, as signal(7) has them; their numbers are this architecture's.

from pyrunc._native.linux cimport *
from pyrunc._native.numbers cimport parse_decimal

cdef extern from *:
    """
    #include <signal.h>
    #define PR_SIGNAL(name) {#name, SIG##name}
    static const struct { const char *name; int number; } pr_signals[] = {
        PR_SIGNAL(ABRT), PR_SIGNAL(ALRM), PR_SIGNAL(BUS), PR_SIGNAL(CHLD), PR_SIGNAL(CONT), PR_SIGNAL(FPE),
        PR_SIGNAL(HUP), PR_SIGNAL(ILL), PR_SIGNAL(INT), PR_SIGNAL(IO), PR_SIGNAL(KILL), PR_SIGNAL(PIPE),
        PR_SIGNAL(PROF), PR_SIGNAL(PWR), PR_SIGNAL(QUIT), PR_SIGNAL(SEGV), PR_SIGNAL(STOP), PR_SIGNAL(SYS),
        PR_SIGNAL(TERM), PR_SIGNAL(TRAP), PR_SIGNAL(TSTP), PR_SIGNAL(TTIN), PR_SIGNAL(TTOU), PR_SIGNAL(URG),
        PR_SIGNAL(USR1), PR_SIGNAL(USR2), PR_SIGNAL(VTALRM), PR_SIGNAL(WINCH), PR_SIGNAL(XCPU), PR_SIGNAL(XFSZ),
        {"", 0},
    };
    """
    struct named_signal:
        const char *name
        int number
    named_signal pr_signals[32]


cdef inline char upper(char c) noexcept nogil:
    return c - 32 if c'a' <= c <= c'z' else c


cdef inline int signal_number(const char *word) noexcept nogil:
    """The number of a signal by number or by name, in any case and with or without SIG; -1 for what Python has to judge."""
    cdef size_t i
    cdef size_t at
    cdef long number = parse_decimal(word)
    if number >= 0:
        return <int>number if 1 <= number <= 64 else -1
    if upper(word[0]) == c'S' and upper(word[1]) == c'I' and upper(word[2]) == c'G':
        word += 3
    i = 0
    while pr_signals[i].number != 0:
        at = 0
        while word[at] != 0 and upper(word[at]) == pr_signals[i].name[at]:
            at += 1
        if word[at] == 0 and pr_signals[i].name[at] == 0:
            return pr_signals[i].number
        i += 1
    return -1
