# cython: cdivision=True, boundscheck=False
# As much of the command line as the front door serves; whatever is not plain here is Python's to judge.

from pyrunc._native.linux cimport *
from pyrunc._native.oci_system cimport *

cdef struct oci_words:
    int argc
    const char **argv
    size_t hidden                   # how many bytes of words of our own stand before them
    int at                          # the next one to be looked at
    const char *root                # of the state directories, or NULL
    const char *log                 # the file for errors, or ""
    const char *log_format
    const char *verb


cdef inline bint flag_is(const char *word, const char *name, const char **value) noexcept nogil:
    """Whether *word* is `-name` or `--name`; *value* is what follows its "=", or NULL."""
    cdef size_t length = strlen(name)
    value[0] = NULL
    if word[0] != c'-':
        return False
    word += 2 if word[1] == c'-' else 1
    if strncmp(word, name, length) != 0:
        return False
    if word[length] == c'=':
        value[0] = word + length + 1
        return True
    return word[length] == 0


cdef inline bint take_switch(oci_words *words, const char *name) noexcept nogil:
    """Take the present word if it is this flag, without a value."""
    cdef const char *value
    if not flag_is(words.argv[words.at], name, &value) or value != NULL:
        return False
    words.at += 1
    return True


cdef inline bint take_value(oci_words *words, const char *name, const char **value) noexcept nogil:
    """Take the present word, and maybe the next, if it is this flag with a value."""
    if not flag_is(words.argv[words.at], name, value):
        return False
    if value[0] == NULL:
        if words.at + 1 >= words.argc:
            return False
        words.at += 1
        value[0] = words.argv[words.at]
    words.at += 1
    return True


cdef inline bint take_globals(oci_words *words) noexcept nogil:
    """Read what stands before the verb, and the verb; False if Python has to."""
    cdef const char *value
    words.at = 1
    words.root = NULL
    words.log = b""
    words.log_format = b"text"
    words.verb = NULL
    while words.at < words.argc:
        if words.argv[words.at][0] != c'-':
            words.verb = words.argv[words.at]
            words.at += 1
            return True
        if take_value(words, b"root", &value):
            if value[0] == 0:
                return False
            words.root = value
        elif take_value(words, b"log", &value):
            words.log = value
        elif take_value(words, b"log-format", &value):
            words.log_format = value
        elif not take_switch(words, b"systemd-cgroup"):
            return False
    return False


cdef inline bint take_id(oci_words *words, const char **id) noexcept nogil:
    """The container's id, of runc's characters; False if there is none here."""
    cdef const char *text
    cdef size_t i = 0
    if words.at >= words.argc:
        return False
    text = words.argv[words.at]
    if text[0] == c'-' or strcmp(text, b".") == 0 or strcmp(text, b"..") == 0:
        return False
    while text[i] != 0:
        if not (c'a' <= text[i] <= c'z' or c'A' <= text[i] <= c'Z' or c'0' <= text[i] <= c'9' or text[i] == c'_'
                or text[i] == c'+' or text[i] == c'-' or text[i] == c'.'):
            return False
        i += 1
    if i == 0 or i > 1024:
        return False
    id[0] = text
    words.at += 1
    return True


cdef inline bint at_end(oci_words *words) noexcept nogil:
    return words.at == words.argc
