// SPDX-License-Identifier: MIT
// The KV functions of the CPU backend's table; backend.h says what each does.
#ifndef TD_BACKEND_CPU_KV_H
#define TD_BACKEND_CPU_KV_H

#include "backend/backend.h"

int td_cpu_kv_open(struct td_device *dev, struct td_kv **out, uint32_t n_ctx, struct td_error *err);
void td_cpu_kv_close(struct td_kv *kv);
uint32_t td_cpu_kv_len(const struct td_kv *kv);
bool td_cpu_kv_holds(const struct td_kv *kv, uint32_t n);
int td_cpu_kv_share(struct td_kv *dst, const struct td_kv *src, uint32_t n, struct td_error *err);
int td_cpu_kv_trim(struct td_kv *kv, uint32_t n, struct td_error *err);
uint64_t td_cpu_kv_alone(struct td_kv *const *kvs, uint32_t n);
int td_cpu_kv_pin(struct td_kv_pin **out, const struct td_kv_span *span, struct td_error *err);
void td_cpu_kv_unpin(struct td_kv_pin *pin);
int td_cpu_kv_read(const struct td_kv_pin *pin, void *out, size_t size_bytes, struct td_error *err);
int td_cpu_kv_reserve(struct td_kv *kv, uint32_t n, struct td_error *err);
int td_cpu_kv_write(const struct td_kv_span *span, const void *in, size_t size_bytes,
                    struct td_error *err);
int td_cpu_kv_commit(struct td_kv *kv, uint32_t n, struct td_error *err);

#endif
