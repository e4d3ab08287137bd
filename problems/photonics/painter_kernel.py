"""The painter's inner loop in numba. Colors: 0 = solid, 1 = void, -1 = not painted yet."""

from __future__ import annotations

import numba as nb
import numpy as np


@nb.njit(nogil=True, cache=True, fastmath=False)
def _best_of_block(block, width, count, gain, open_pixels, blocked):
    """Best pay in one block of touches, its touch and its color; -inf where no touch is legal."""
    best, touch, color = -np.inf, -1, 0
    for t in range(block * width, min((block + 1) * width, count)):
        if open_pixels[t] > 0:
            if blocked[0, t] == 0 and gain[t] > best:
                best, touch, color = gain[t], t, 0
            if blocked[1, t] == 0 and -gain[t] > best:
                best, touch, color = -gain[t], t, 1
    return best, touch, color


@nb.njit(nogil=True, cache=True, fastmath=False)
def paint(reward, touch_start, touch_pixel, pixel_start, pixel_touch, start, width):
    """Paint one reward [n], after the touches 2 t + color of ``start``: colors [n], and whether all got one."""
    n, m = len(pixel_start) - 1, len(touch_start) - 1
    color = np.full(n, -1, np.int8)
    forced = np.full(n, -1, np.int8)
    reach = np.empty((2, n), np.int32)  # legal touches of each color over a pixel
    blocked = np.zeros((2, m), np.int32)  # pixels under a touch that have the other color
    contested = np.empty((2, m), np.int32)  # pixels under a touch that the other color can still reach
    needed = np.zeros((2, m), np.int32)  # open pixels under a touch that are forced to its color
    open_pixels = np.empty(m, np.int32)
    gain = np.zeros(m)
    for p in range(n):
        reach[0, p] = reach[1, p] = pixel_start[p + 1] - pixel_start[p]
    for t in range(m):
        area = touch_start[t + 1] - touch_start[t]
        open_pixels[t] = contested[0, t] = contested[1, t] = area
        for k in range(touch_start[t], touch_start[t + 1]):
            gain[t] += reward[touch_pixel[k]]

    blocks = (m + width - 1) // width
    is_stale = np.ones(blocks, np.bool_)
    stale = np.arange(blocks)
    stale_count = blocks
    block_best = np.empty(blocks)
    block_touch = np.empty(blocks, np.int32)
    block_color = np.empty(blocks, np.int8)

    free = np.empty(2 * m + len(start), np.int32)  # stack of touches 2 t + color that cost the other color nothing
    free_count = len(start)
    free[:free_count] = start
    helper = np.empty(2 * m, np.int32)  # touches that may cover a forced pixel
    in_helper = np.zeros(2 * m, np.bool_)
    helper_count = 0
    painted = 0

    while painted < n:
        chosen, c = -1, 0
        while free_count > 0 and chosen < 0:
            free_count -= 1
            t, c = free[free_count] >> 1, free[free_count] & 1
            if blocked[c, t] == 0 and open_pixels[t] > 0:
                chosen = t
        if chosen < 0 and helper_count > 0:
            best, keep = -np.inf, 0
            for k in range(helper_count):
                t, d = helper[k] >> 1, helper[k] & 1
                if blocked[d, t] > 0 or needed[d, t] == 0:
                    in_helper[helper[k]] = False
                    continue
                helper[keep] = helper[k]
                keep += 1
                pay = gain[t] if d == 0 else -gain[t]
                if pay > best:
                    best, chosen, c = pay, t, d
            helper_count = keep
        if chosen < 0:
            for k in range(stale_count):
                b = stale[k]
                is_stale[b] = False
                block_best[b], block_touch[b], block_color[b] = _best_of_block(b, width, m, gain, open_pixels, blocked)
            stale_count = 0
            best = -np.inf
            for b in range(blocks):
                if block_best[b] > best:
                    best, chosen, c = block_best[b], block_touch[b], block_color[b]
            if chosen < 0:
                return color, False

        other = 1 - c
        for k in range(touch_start[chosen], touch_start[chosen + 1]):
            p = touch_pixel[k]
            if color[p] >= 0:
                continue
            was_forced = forced[p] == c
            color[p] = c
            painted += 1
            for j in range(pixel_start[p], pixel_start[p + 1]):
                t = pixel_touch[j]
                gain[t] -= reward[p]
                open_pixels[t] -= 1
                if not is_stale[t // width]:
                    is_stale[t // width] = True
                    stale[stale_count] = t // width
                    stale_count += 1
                if was_forced:
                    needed[c, t] -= 1
                else:
                    contested[c, t] -= 1
                    if contested[c, t] == 0 and blocked[c, t] == 0 and open_pixels[t] > 0:
                        free[free_count] = 2 * t + c
                        free_count += 1
                blocked[other, t] += 1
                if blocked[other, t] > 1:
                    continue
                for i in range(touch_start[t], touch_start[t + 1]):
                    q = touch_pixel[i]
                    reach[other, q] -= 1
                    if reach[other, q] > 0 or color[q] >= 0:
                        continue
                    forced[q] = c
                    for e in range(pixel_start[q], pixel_start[q + 1]):
                        u = pixel_touch[e]
                        contested[c, u] -= 1
                        needed[c, u] += 1
                        if blocked[c, u] > 0:
                            continue
                        if contested[c, u] == 0 and open_pixels[u] > 0:
                            free[free_count] = 2 * u + c
                            free_count += 1
                        if not in_helper[2 * u + c]:
                            in_helper[2 * u + c] = True
                            helper[helper_count] = 2 * u + c
                            helper_count += 1
    return color, True


@nb.njit(nogil=True, cache=True, fastmath=False)
def _flip(p, c, color, foreign, cover, touch_start, touch_pixel, pixel_start, pixel_touch, queue, tail):
    """Give pixel p the color c and queue the pixels of the other color that thereby lose their last touch."""
    other = 1 - c
    color[p] = c
    for j in range(pixel_start[p], pixel_start[p + 1]):
        t = pixel_touch[j]
        foreign[c, t] -= 1
        if foreign[c, t] == 0:
            for i in range(touch_start[t], touch_start[t + 1]):
                cover[c, touch_pixel[i]] += 1
        foreign[other, t] += 1
        if foreign[other, t] == 1:
            for i in range(touch_start[t], touch_start[t + 1]):
                q = touch_pixel[i]
                cover[other, q] -= 1
                if cover[other, q] == 0 and color[q] == other and tail < len(queue):
                    queue[tail] = q
                    tail += 1
    return tail


@nb.njit(nogil=True, cache=True, fastmath=False)
def improve(solid, reward, touch_start, touch_pixel, pixel_start, pixel_touch, sweeps, reach):
    """Hill-climb from a feasible design by placing single touches.

    A move paints one touch in one color; pixels of the other color that no touch can hold any more follow, and the move
    stands if the result is feasible and pays. At most ``reach`` pixels change in a move.
    """
    n, m = len(pixel_start) - 1, len(touch_start) - 1
    color = np.empty(n, np.int8)
    for p in range(n):
        color[p] = 0 if solid[p] > 0 else 1
    foreign = np.zeros((2, m), np.int32)  # pixels under a touch that do not have its color
    cover = np.zeros((2, n), np.int32)  # touches of a color that lie wholly in that color, over a pixel
    for t in range(m):
        for i in range(touch_start[t], touch_start[t + 1]):
            foreign[1 - color[touch_pixel[i]], t] += 1
        for c in range(2):
            if foreign[c, t] == 0:
                for i in range(touch_start[t], touch_start[t + 1]):
                    cover[c, touch_pixel[i]] += 1
    queue = np.empty(reach + 1, np.int32)
    scrap = np.empty(0, np.int32)
    total = 0.0
    for _ in range(sweeps):
        gained = 0.0
        for t in range(m):
            for c in range(2):
                if foreign[c, t] == 0:
                    continue
                sign = 1.0 if c == 0 else -1.0
                pay, tail = 0.0, 0
                for i in range(touch_start[t], touch_start[t + 1]):
                    p = touch_pixel[i]
                    if color[p] != c and tail <= reach:
                        pay += sign * reward[p]
                        if tail < len(queue):
                            queue[tail] = p
                            tail += 1
                if pay <= 1e-12 or tail > reach:
                    continue
                head, is_good, pay = 0, True, 0.0
                while head < tail:
                    if tail > reach:
                        is_good = False
                        break
                    p = queue[head]
                    head += 1
                    if color[p] == c:  # queued twice
                        queue[head - 1] = -1
                        continue
                    pay += sign * reward[p]
                    tail = _flip(
                        p, c, color, foreign, cover, touch_start, touch_pixel, pixel_start, pixel_touch, queue, tail
                    )
                if is_good and pay > 1e-12:
                    for k in range(head):
                        if queue[k] >= 0 and cover[c, queue[k]] == 0:
                            is_good = False
                            break
                if is_good and pay > 1e-12:
                    gained += pay
                    continue
                for k in range(head - 1, -1, -1):
                    if queue[k] >= 0:
                        _flip(
                            queue[k], 1 - c, color, foreign, cover, touch_start, touch_pixel, pixel_start, pixel_touch,
                            scrap, 0,
                        )  # fmt: skip
        total += gained
        if gained <= 1e-9:
            break
    out = np.empty(n, np.int8)
    for p in range(n):
        out[p] = 1 if color[p] == 0 else 0
    return out, total
