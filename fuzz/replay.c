// SPDX-License-Identifier: MIT
// Runs every file of the given folders through a fuzz target, so that a corpus is a test with any
// compiler. No file at all is a failure.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    // Copied into a buffer of exactly the file's size, so that a sanitizer sees an over-read.
    if (fseek(f, 0, SEEK_END) != 0) {
        fclose(f);
        return 0;
    }
    const long size = ftell(f);
    rewind(f);
    uint8_t *bytes = malloc(size > 0 ? (size_t)size : 1);
    const int is_read = bytes && size >= 0 && fread(bytes, 1, (size_t)size, f) == (size_t)size;
    fclose(f);
    if (is_read) (void)LLVMFuzzerTestOneInput(bytes, (size_t)size);
    free(bytes);
    return is_read;
}

int main(int argc, char **argv)
{
    int n_files = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (!dir) {
            n_files += replay_file(argv[i]);
            continue;
        }
        for (struct dirent *e; (e = readdir(dir));) {
            char path[4096];
            if (e->d_name[0] == '.') continue;
            snprintf(path, sizeof(path), "%s/%s", argv[i], e->d_name);
            n_files += replay_file(path);
        }
        closedir(dir);
    }
    printf("%d files replayed\n", n_files);
    return n_files > 0 ? 0 : 1;
}
