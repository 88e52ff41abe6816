// SPDX-License-Identifier: MIT
// `tandem key`: makes the pairing secret of two machines, and says its fingerprint.
#include "relay/key.h"
#include "app/app.h"
#include "app/commands.h"

#include <string.h>

int td_cmd_key(const struct td_config *cfg)
{
    const char *what = cfg->args[0], *path = cfg->args[1];
    const bool is_new = strcmp(what, "new") == 0;
    if (!is_new && strcmp(what, "show") != 0)
        return td_app_usage(cfg, "'%.60s' is neither new nor show", what);
    struct td_error err = {0};
    struct td_key key;
    int code;
    if (is_new) {
        code = td_key_new(&key, &err);
        if (!code) code = td_key_save(&key, path, &err);
    } else {
        code = td_key_load(&key, path, &err);
    }
    if (code) {
        td_key_wipe(&key);
        return td_app_fail(&err);
    }
    char fingerprint[TD_KEY_FINGERPRINT];
    td_key_fingerprint(&key, fingerprint);
    td_key_wipe(&key);
    printf("fingerprint %s\n", fingerprint);
    if (is_new)
        td_app_note("copy %.200s to the other machine (scp -p keeps its mode) and compare the "
                    "fingerprint there: tandem key show",
                    path);
    return td_app_flush();
}
