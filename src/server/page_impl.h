// SPDX-License-Identifier: MIT
// The table that tools/page.cmake writes from web/dist: private to page.c.
#ifndef TD_SERVER_PAGE_IMPL_H
#define TD_SERVER_PAGE_IMPL_H

#include "server/http.h"

extern const struct td_page_file td_page_files[]; // ends with a path of NULL; "/" is among them
extern const bool td_page_files_are_built;

#endif
