// SPDX-License-Identifier: MIT
// The tables of data/ and the planner's page, built into the program (tools/embed.cmake). Each ends
// with a zero that is not counted.
#ifndef TD_APP_DATA_H
#define TD_APP_DATA_H

#include <stddef.h>

extern const unsigned char td_data_devices[], td_data_models[], td_data_measurements[],
    td_data_calibration[];
extern const size_t td_data_devices_bytes, td_data_models_bytes, td_data_measurements_bytes,
    td_data_calibration_bytes;
// What tandem bench measured of the engine itself: its JSON.
extern const unsigned char td_data_engine[];
extern const size_t td_data_engine_bytes;
// plan_page.html and what goes into it
extern const unsigned char td_data_plan_page[], td_data_plan_style[], td_data_plan_core[],
    td_data_plan_view[];
extern const size_t td_data_plan_page_bytes, td_data_plan_style_bytes, td_data_plan_core_bytes,
    td_data_plan_view_bytes;

#endif
