// SPDX-License-Identifier: MIT
// `tandem probe`: the measurements of this machine, for people and as JSON.
#include "app/app.h"
#include "app/commands.h"
#include "app/json.h"

#include "base/os.h"
#include "kernels/kernels.h"
#include "probe/probe.h"

#include <errno.h>
#include <string.h>

static bool is_wanted(void)
{
    return !td_app_interrupted();
}

static json_t *rates_json(const struct td_probe_rates *r)
{
    json_t *out = json_object();
    td_json_u64(out, "n_threads", r->n_threads);
    td_json_f64(out, "read_bytes_per_s", r->read_bytes_per_s);
    td_json_f64(out, "int8_ops_per_s", r->int8_ops_per_s);
    td_json_f64(out, "f32_flops_per_s", r->f32_flops_per_s);
    return out;
}

static json_t *probe_json(const struct td_probe *p, const struct td_os_info *info,
                          const char *kernels)
{
    json_t *out = json_object();
    td_json_text(out, "tandem_version", TD_VERSION);
    td_json_bytes(out, "cpu_info", info->cpu_name, strlen(info->cpu_name));
    td_json_bytes(out, "os_info", info->os_name, strlen(info->os_name));
    td_json_u64(out, "n_cpus", info->n_cpus);
    td_json_u64(out, "memory_bytes", info->memory_bytes);
    td_json_u64(out, "last_cache_bytes", info->last_cache_bytes);
    td_json_text(out, "isa", p->isa);
    td_json_text(out, "kernels", kernels);
    td_json_text(out, "int8_with", p->int8_with);
    td_json_u64(out, "read_buffer_bytes", p->buffer_bytes);
    json_object_set_new(out, "one_thread", rates_json(&p->one));
    json_object_set_new(out, "all_threads", rates_json(&p->all));
    td_json_f64(out, "seconds", p->seconds);
    return out;
}

static int write_json(const char *path, json_t *value, struct td_error *err)
{
    FILE *f = fopen(path, "w");
    if (!f) {
        json_decref(value);
        return td_fail(err, TD_EIO, "%.160s: %s", path, td_app_why(errno));
    }
    const int wrote = td_json_print(f, value, JSON_INDENT(2));
    if (fclose(f) != 0 || wrote != 0)
        return td_fail(err, TD_EIO, "%.160s: cannot be written", path);
    return TD_OK;
}

int td_cmd_probe(const struct td_config *cfg)
{
    struct td_error err = {0};
    struct td_os_info info;
    struct td_probe p;
    char kernels[96];
    (void)td_app_kernels(cfg, kernels, sizeof(kernels));
    td_os_info(&info);
    const enum td_isa isa = cfg->isa < 0 ? td_isa_native() : (enum td_isa)cfg->isa;
    int code = td_probe_measure(&p, td_app_threads(cfg), td_opt_is_set(cfg, TD_OPT_QUICK), isa,
                                is_wanted, &err);
    if (code == TD_OK && td_opt_is_set(cfg, TD_OPT_OUT))
        code = write_json(td_opt_text(cfg, TD_OPT_OUT), probe_json(&p, &info, kernels), &err);
    if (code != TD_OK) return td_app_fail(&err);
    if (td_opt_is_set(cfg, TD_OPT_JSON))
        return td_json_print(stdout, probe_json(&p, &info, kernels), JSON_INDENT(2)) == 0
                   ? TD_EXIT_OK
                   : TD_EXIT_FAIL;

    char memory[24], cache[24];
    printf("%s, %u CPUs, %s memory, %s last-level cache\n%s, %s: %s\nkernels: %s\n\n",
           info.cpu_name, info.n_cpus, td_text_gib(memory, sizeof(memory), info.memory_bytes),
           td_text_gib(cache, sizeof(cache), info.last_cache_bytes), info.os_name, p.isa,
           p.int8_with, kernels);
    printf("%-10s %12s %14s %14s\n", "threads", "read GB/s", "int8 Gop/s", "f32 GFLOP/s");
    const struct td_probe_rates *rows[] = {&p.one, &p.all};
    for (int i = 0; i < (p.all.n_threads > 1 ? 2 : 1); i++)
        printf("%-10u %12.1f %14.0f %14.0f\n", rows[i]->n_threads, rows[i]->read_bytes_per_s * 1e-9,
               rows[i]->int8_ops_per_s * 1e-9, rows[i]->f32_flops_per_s * 1e-9);
    return TD_EXIT_OK;
}
