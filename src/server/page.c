// SPDX-License-Identifier: MIT
// The chat page's files, found by path. Their bytes are compiled in: web/dist, as `make web` makes
// it, or a page that says how to get there.
#include "server/page_impl.h"

#include <string.h>

const struct td_page_file *td_page_find(const char *path)
{
    if (strcmp(path, "/index.html") == 0) path = "/";
    for (const struct td_page_file *file = td_page_files; file->path; file++) {
        if (strcmp(file->path, path) == 0) return file;
    }
    return NULL;
}

bool td_page_is_built(void)
{
    return td_page_files_are_built;
}
