// What the address and thread sanitizers are told, and which of the two this is compiled for.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define CKN_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define CKN_TSAN 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CKN_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define CKN_TSAN 1
#endif
#endif

#ifdef CKN_ASAN
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CKN_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

// The harness's own bookkeeping is shared by all fibers of one thread of the system, rightly so: the thread
// sanitizer must not look at it.  Functions so marked touch plain arrays only, as what they call is looked at.
#define CKN_NOT_WATCHED __attribute__((no_sanitize("thread")))
#ifdef CKN_WAYS
#define CKN_HARNESS CKN_NOT_WATCHED __attribute__((no_sanitize_coverage, noinline)) inline
#else
#define CKN_HARNESS CKN_NOT_WATCHED inline
#endif

namespace [[gnu::visibility("hidden")]] ckn {

// Everything done before order_release(x) happens before what follows order_acquire(x).
CKN_HARNESS void order_release([[maybe_unused]] void* object) {
#ifdef CKN_TSAN
    __tsan_release(object);
#endif
}
CKN_HARNESS void order_acquire([[maybe_unused]] void* object) {
#ifdef CKN_TSAN
    __tsan_acquire(object);
#endif
}

#ifdef CKN_TSAN
// The thread sanitizer takes an ended thread's number again for a new one, and sees no race between the two.
// So threads stay, as many of the last as it has numbers for.
constexpr unsigned most_identities = 6000;
inline void* identities[most_identities];
inline unsigned n_identities = 0;

CKN_HARNESS void* new_identity() {
    void*& place = identities[n_identities++ % most_identities];
    if (place) __tsan_destroy_fiber(place);
    return place = __tsan_create_fiber(0);
}
#endif

// While one of these lives, the thread sanitizer does not look at what C's library does for the harness, either.
struct NotWatched {
#ifdef CKN_TSAN
    CKN_NOT_WATCHED NotWatched() {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    CKN_NOT_WATCHED ~NotWatched() {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
#endif
};

}  // namespace ckn
