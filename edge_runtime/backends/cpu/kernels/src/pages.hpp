// Anonymous pages: they take memory when they are first written, and give it back when they are released.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace hobbit {

class Pages {
 public:
  // With `stays`, large pages are asked for: for what is read for every token, never for what comes and goes.
  explicit Pages(size_t bytes, bool stays = false) : bytes_(bytes) {
    if (bytes == 0) return;
    void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<uint8_t*>(found);
#if defined(MADV_HUGEPAGE)
    if (stays) madvise(found, bytes, MADV_HUGEPAGE);  // a wish
#else
    (void)stays;
#endif
  }
  ~Pages() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  Pages(Pages&& other) noexcept
      : bytes_(std::exchange(other.bytes_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
    return *this;
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return bytes_; }
  void release() {
    if (data_ != nullptr) madvise(data_, bytes_, MADV_DONTNEED);
  }

 private:
  size_t bytes_;
  uint8_t* data_ = nullptr;
};

}  // namespace hobbit
