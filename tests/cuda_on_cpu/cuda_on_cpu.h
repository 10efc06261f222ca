// CUDA's meaning on a CPU, so that the project's kernels run where there is no GPU.
//
// The model.  A launch runs its blocks one after another, on one thread of the operating system.  The threads
// of a block are fibers: each has a stack, and runs until it must wait for others, at a barrier or in a warp's
// collective operation (a shuffle, a vote, a matrix product).  So a run is repeatable, and a wait that can
// never end is seen at once: nobody is left to run.  What a GPU leaves undefined is made visible: shared memory
// starts as NaN, the target of an asynchronous copy is NaN until its thread has waited for it, and the order of
// blocks and threads is chosen by the environment variable CKNCUDA_CPU_ORDER (forward, backward, shuffled:SEED).
// Under the compilers' sanitizers, fibers are announced as threads that only CUDA's own barriers order.
//
// A process may hold many modules, each with a state of its own: hence the hidden visibility of the namespace.
//
//   headers/language.h      qualifiers, vector types, mathematical functions
//   headers/sanitizers.h    what is told to the address and thread sanitizers
//   headers/fiber.h         a stack and the switch between two
//   headers/block.h         the threads of a block: who runs next, barriers, warps' collective operations
//   headers/warp.h          shuffles and votes
//   headers/memory.h        shared memory, asynchronous copies, atomic operations
//   headers/tensor_core.h   TF32, bfloat16 and the products of a warp's tiles
//   headers/faults.h        what the processor itself refuses
//   headers/launch.h        the grid, and what a caller may ask of a compiled module
#pragma once

#include "headers/language.h"
#include "headers/sanitizers.h"
#include "headers/fiber.h"
#include "headers/block.h"
#include "headers/warp.h"
#include "headers/memory.h"
#include "headers/tensor_core.h"
#include "headers/faults.h"
#include "headers/launch.h"
#ifdef CKN_REPLAY
#include "headers/replay.h"
#endif
