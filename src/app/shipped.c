// SPDX-License-Identifier: MIT
// Where the small model that comes with tandem lies: it is found from where the program is, so an
// installation may be moved as a whole. A program in its build folder takes the source tree's.
#include "app/app.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SHIPPED_NAME "tandem-mini.gguf"

// The folder of this program, with a '/' at its end; false where the system does not say.
static bool own_folder(char *out, size_t out_bytes)
{
    const ssize_t n = readlink("/proc/self/exe", out, out_bytes - 1);
    // A path that fills the buffer may have been cut.
    if (n <= 0 || (size_t)n >= out_bytes - 1) return false;
    out[n] = '\0';
    char *slash = strrchr(out, '/');
    if (!slash) return false;
    slash[1] = '\0';
    return true;
}

// Where a build folder's sources are, as CMake noted there; false when it is no build folder.
static bool source_folder(const char *build, char *out, size_t out_bytes)
{
    static const char key[] = "CMAKE_HOME_DIRECTORY:INTERNAL=";
    char line[4096 + 64];
    snprintf(line, sizeof(line), "%sCMakeCache.txt", build);
    FILE *f = fopen(line, "r");
    if (!f) return false;
    bool is_found = false;
    while (!is_found && fgets(line, sizeof(line), f)) {
        if (strncmp(line, key, sizeof(key) - 1) != 0) continue;
        const char *value = line + sizeof(key) - 1;
        const int n = snprintf(out, out_bytes, "%.*s", (int)strcspn(value, "\n"), value);
        is_found = n > 0 && (size_t)n < out_bytes;
    }
    fclose(f);
    return is_found;
}

bool td_app_shipped_model(char *out, size_t out_bytes)
{
    char folder[4096], source[4096];
    if (!own_folder(folder, sizeof(folder))) return false;
    const int n = source_folder(folder, source, sizeof(source))
                      ? snprintf(out, out_bytes, "%s/models/" SHIPPED_NAME, source)
                      : snprintf(out, out_bytes, "%s../share/tandem/" SHIPPED_NAME, folder);
    return n > 0 && (size_t)n < out_bytes && access(out, R_OK) == 0;
}
