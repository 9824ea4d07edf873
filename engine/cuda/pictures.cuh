// Views of pictures: data/src/augment/weak.rs (`move_by`) and the hole of cutout.
#pragma once
#include "common.cuh"

/// How a picture is shown; see engine/src/cuda/kernels/pictures.rs.
struct Pick {
    u32 index, mirrored;
    int down, right;
    u32 hole_rows[2], hole_columns[2];
};

struct Frame {
    u32 height, width, channels, border, fill;
};

/// The place in `0..size` that a place outside it shows.
__device__ __forceinline__ int reflected(int place, int size) {
    const int last = size - 1;
    if (last == 0) return 0;
    int folded = place % (2 * last);
    if (folded < 0) folded += 2 * last;
    return folded > last ? 2 * last - folded : folded;
}

namespace run {

__device__ __forceinline__ void augment(const Frame &frame, const u8 *data, const Pick *picks, u32 pixels, u8 *y) {
    each_item(pixels, [&](u32 pixel) {
        const u32 column = pixel % frame.width, rest = pixel / frame.width;
        const u32 row = rest % frame.height, picture = rest / frame.height;
        const Pick pick = picks[picture];
        u8 *to = y + u64(pixel) * frame.channels;
        const bool hole = row >= pick.hole_rows[0] && row < pick.hole_rows[1] && column >= pick.hole_columns[0] &&
                          column < pick.hole_columns[1];
        const int height = int(frame.height), width = int(frame.width);
        int from_row = int(row) - pick.down, from_column = int(column) - pick.right;
        const bool inside = from_row >= 0 && from_row < height && from_column >= 0 && from_column < width;
        if (hole || (frame.border && !inside)) {
            const u8 value = u8(hole ? frame.fill : frame.border - 1);
            for (u32 channel = 0; channel < frame.channels; ++channel) to[channel] = value;
            return;
        }
        from_row = reflected(from_row, height), from_column = reflected(from_column, width);
        if (pick.mirrored) from_column = width - 1 - from_column;
        const u64 place = (u64(pick.index) * frame.height + u32(from_row)) * frame.width + u32(from_column);
        const u8 *from = data + place * frame.channels;
        for (u32 channel = 0; channel < frame.channels; ++channel) to[channel] = from[channel];
    });
}

}  // namespace run

ONE(augment, (Frame frame, const u8 *data, const Pick *picks, u32 pixels, u8 *y), (frame, data, picks, pixels, y))
