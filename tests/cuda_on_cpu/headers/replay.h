// A program that repeats recorded launches of its module, for the sanitizers, which want a process of their own.
//
// Its argument is a file of text: for each launch
//     launch KERNEL gx gy gz bx by bz SHARED BUFFERS ARGUMENTS
// then each buffer, allocated with exactly its size, and each argument:
//     buffer BYTES FILE
//     pointer BUFFER OFFSET   or   null   or   bytes HEXADECIMAL
#pragma once

namespace [[gnu::visibility("hidden")]] ckn {

struct Buffer {
    char* memory;
    size_t bytes;
};

inline void expect(bool good, const char* what) {
    if (good) return;
    std::fprintf(stderr, "cuda_on_cpu: the recording is damaged: %s\n", what);
    std::exit(3);
}

// Buffers come from malloc with not a byte more, so that the address sanitizer sees who goes beyond.
inline Buffer read_buffer(std::FILE* script) {
    Buffer buffer{};
    char path[4096];
    expect(std::fscanf(script, " buffer %zu %4095s", &buffer.bytes, path) == 2, "buffer");
    void* memory = nullptr;
    expect(posix_memalign(&memory, 256, buffer.bytes ? buffer.bytes : 1) == 0, "memory");
    buffer.memory = static_cast<char*>(memory);
    std::FILE* file = std::fopen(path, "rb");
    expect(file && std::fread(buffer.memory, 1, buffer.bytes, file) == buffer.bytes, path);
    std::fclose(file);
    return buffer;
}

inline std::vector<char> read_argument(std::FILE* script, const std::vector<Buffer>& buffers) {
    char kind[16];
    expect(std::fscanf(script, " %15s", kind) == 1, "argument");
    std::vector<char> value(sizeof(void*), 0);
    if (!std::strcmp(kind, "pointer")) {
        size_t buffer, offset;
        expect(std::fscanf(script, "%zu %zu", &buffer, &offset) == 2 && buffer < buffers.size(), "pointer");
        char* pointer = buffers[buffer].memory + offset;
        std::memcpy(value.data(), &pointer, sizeof pointer);
    } else if (!std::strcmp(kind, "bytes")) {
        value.clear();
        std::fgetc(script);
        for (unsigned byte; std::fscanf(script, "%2x", &byte) == 1;) {
            value.push_back(static_cast<char>(byte));
            int next = std::fgetc(script);
            if (next == '\n' || next == EOF) break;
            std::ungetc(next, script);
        }
    }
    return value;
}

// One launch of the script; whether there was one.
inline bool replay_launch(std::FILE* script) {
    unsigned kernel;
    Shape shape{};
    size_t n_buffers, n_arguments;
    int read = std::fscanf(script, " launch %u %u %u %u %u %u %u %zu %zu %zu", &kernel, &shape.grid[0], &shape.grid[1],
                           &shape.grid[2], &shape.block[0], &shape.block[1], &shape.block[2], &shape.shared_bytes,
                           &n_buffers, &n_arguments);
    if (read == EOF) return false;
    expect(read == 10 && kernel < kernels().size(), "launch");
    std::vector<Buffer> buffers(n_buffers);
    for (Buffer& buffer : buffers) buffer = read_buffer(script);
    std::vector<std::vector<char>> values;
    for (size_t i = 0; i < n_arguments; ++i) values.push_back(read_argument(script, buffers));
    std::vector<void*> pointers;
    for (auto& value : values) pointers.push_back(value.data());
    char error[2048];
    if (kernels()[kernel].launch(shape, pointers.data(), error, sizeof error)) {
        std::fprintf(stderr, "cuda_on_cpu: %s: %s\n", kernels()[kernel].name, error);
        std::_Exit(4);
    }
    for (Buffer& buffer : buffers) std::free(buffer.memory);
    return true;
}

}  // namespace ckn

int main(int n, char** arguments) {
    std::FILE* script = n == 2 ? std::fopen(arguments[1], "r") : nullptr;
    ckn::expect(script, "no script");
    while (ckn::replay_launch(script)) {
    }
    return 0;
}
