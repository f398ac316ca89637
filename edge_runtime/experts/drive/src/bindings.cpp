// Python surface of the drive reader: plain numbers in, plain tuples out; the GIL is released while it works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <stdexcept>

#include "read_port.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Spans = std::vector<std::pair<size_t, size_t>>;
using Checksums = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr int kWritable = 0x200;  // PyBUF_WRITE, whose name the limited API has from 3.11 on only

// A Python function in place of preadv: read(fd, memoryview, offset) -> bytes that came, or OSError.
hobbit::ReadFunction wrap(nb::object function) {
  if (function.is_none()) return {};
  // leaked on purpose: a thread stuck in a read may outlive the interpreter
  auto* held = new nb::object(std::move(function));
  return [held](int fd, uint8_t* into, size_t bytes, int64_t offset) -> int64_t {
    nb::gil_scoped_acquire gil;
    try {
      nb::object view = nb::steal(
          PyMemoryView_FromMemory(reinterpret_cast<char*>(into), Py_ssize_t(bytes), kWritable));
      return nb::cast<int64_t>((*held)(fd, view, offset));
    } catch (nb::python_error& err) {
      if (err.matches(PyExc_OSError)) {
        nb::object code = err.value().attr("errno");
        if (!code.is_none()) return -nb::cast<int64_t>(code);
      }
      throw std::runtime_error(nb::cast<std::string>(nb::str(err.type().attr("__name__"))) + ": " +
                               nb::cast<std::string>(nb::str(err.value())));
    }
  };
}

std::vector<hobbit::ReadLayout::Span> spans(const Spans& pairs) {
  std::vector<hobbit::ReadLayout::Span> found;
  for (const auto& [start, bytes] : pairs) found.push_back({start, bytes});
  return found;
}

// Where the records of a layer are, and what their segments add up to.
struct RecordFile {
  int fd = -1;
  int64_t file_bytes = 0, first_record = 0, record_bytes = 0;
  bool has_stamp = false;
  Checksums checksums;
};

class DriveReader : public hobbit::ReadPort {
 public:
  DriveReader(int depth, bool drop_cached, bool use_uring, nb::object read)
      : queue_(std::make_shared<hobbit::ReadQueue>(drop_cached, (depth + 1) / 2)) {
    if (depth < 1 || depth > 256)
      throw std::invalid_argument("DriveReader: depth must be in 1..256, got " + std::to_string(depth));
    hobbit::ReadFunction replaced = wrap(std::move(read));
    std::string why_not = "not asked for";
    if (use_uring && !replaced) backend_ = hobbit::make_uring_backend(queue_, depth, why_not);
    if (!backend_) why_not_ = why_not, backend_ = hobbit::make_thread_backend(queue_, depth, std::move(replaced));
  }
  ~DriveReader() override { queue_->close(); }

  size_t add_layout(const Spans& segments, const Spans& parts) {
    if (segments.empty() || segments.size() > hobbit::kMaxSegments || parts.empty())
      throw std::invalid_argument("DriveReader: a layout has 1 to 4 segments and at least one part");
    layouts_.push_back(std::make_shared<hobbit::ReadLayout>(spans(segments), spans(parts)));
    return layouts_.size() - 1;
  }

  void set_file(size_t layer, RecordFile file) {
    if (layer >= (1u << 20)) throw std::invalid_argument("DriveReader: there is no such layer");
    if (layer >= files_.size()) files_.resize(layer + 1);
    files_[layer] = std::move(file);
  }

  void set_layout(int first, int last, size_t layout) {
    if (first < 0 || last <= first || last > int(hobbit::kMaxSegments))
      throw std::invalid_argument("DriveReader: a read has segments of 0 to 3");
    layout_of_[first][last] = layouts_.at(layout);
  }

  uint64_t submit(const hobbit::ReadOrder& order) override {
    const RecordFile* file = size_t(order.layer) < files_.size() ? &files_[size_t(order.layer)] : nullptr;
    if (file == nullptr || file->fd < 0 || order.expert < 0 || size_t(order.expert) >= file->checksums.shape(0) ||
        order.first < 0 || order.last <= order.first || size_t(order.last) > file->checksums.shape(1))
      throw std::invalid_argument("DriveReader: there is no such record");
    const auto& layout = layout_of_[order.first][order.last];
    if (!layout) throw std::invalid_argument("DriveReader: these segments have no layout");
    const uint32_t* sums = file->checksums.data() + size_t(order.expert) * file->checksums.shape(1);
    int64_t start = 0;  // of the first segment in the record
    if (order.first) start = int64_t(layout_of_[0][order.first]->segments.back().start + layout_of_[0][order.first]->segments.back().bytes);
    const uint64_t number = kPortNumbers + num_orders_++;
    hobbit::Request request{number, order.priority, layout, file->fd, file->file_bytes,
                            file->first_record + order.expert * file->record_bytes + start,
                            {order.targets, order.targets + order.num_targets}, {sums + order.first, sums + order.last},
                            file->has_stamp && order.first == 0, uint32_t(order.layer), uint32_t(order.expert)};
    require_room(request);
    queue_->push(std::move(request));
    return number;
  }
  std::vector<hobbit::Outcome> wait(double timeout_s) override { return queue_->wait_done(timeout_s); }

  void submit(uint64_t id, int priority, size_t layout, int fd, int64_t file_bytes, int64_t offset,
              const std::vector<std::pair<uint64_t, size_t>>& targets, std::vector<uint32_t> checksums, bool has_stamp,
              uint32_t layer, uint32_t expert) {
    const std::shared_ptr<const hobbit::ReadLayout>& p = layouts_.at(layout);
    hobbit::Request request{id,     priority, p, fd, file_bytes, offset, {}, std::move(checksums), has_stamp,
                            layer,  expert};
    for (const auto& [address, bytes] : targets) request.targets.push_back({reinterpret_cast<uint8_t*>(address), bytes});
    require_room(request);
    nb::gil_scoped_release release;
    queue_->push(std::move(request));
  }

  nb::list wait_for_some(double timeout_s) {
    std::vector<hobbit::Outcome> done;
    {
      nb::gil_scoped_release release;
      done = queue_->wait_done(timeout_s);
    }
    nb::list result;
    for (const hobbit::Outcome& o : done)
      result.append(nb::make_tuple(o.id, int(o.fault), o.finished_ns - o.started_ns,
                                   nb::make_tuple(o.code, o.at, o.bytes, o.segment, o.expected, o.got, o.layer,
                                                  o.expert, o.message)));
    return result;
  }

  void promote(uint64_t id, int priority) override { queue_->promote(id, priority); }
  bool promote_queued(uint64_t id, int priority) { return queue_->promote(id, priority); }
  bool cancel(uint64_t id) override { return queue_->cancel(id); }
  void forget(uint64_t id) override { queue_->forget(id); }
  std::tuple<uint64_t, uint64_t, int64_t> stats() const {
    const hobbit::ReadStats s = queue_->stats();
    return {s.reads, s.bytes, s.busy_ns};
  }
  bool close(double timeout_s) {
    nb::gil_scoped_release release;
    queue_->close();
    return backend_->join(timeout_s);
  }
  std::string method() const { return backend_->method() + (why_not_.empty() ? "" : " (io_uring: " + why_not_ + ")"); }

 private:
  static constexpr uint64_t kPortNumbers = uint64_t(1) << 62;  // Python's own are below

  static void require_room(const hobbit::Request& request) {
    size_t total = 0, wanted = 0;
    for (const auto& target : request.targets) total += target.bytes;
    for (const auto& segment : request.layout->segments) wanted += segment.bytes;
    if (total < wanted || request.targets.size() > hobbit::kMaxSegments ||
        request.checksums.size() != request.layout->segments.size())
      throw std::invalid_argument("DriveReader: expected memory of " + std::to_string(wanted) + " bytes, got " +
                                  std::to_string(total));
  }

  std::shared_ptr<hobbit::ReadQueue> queue_;
  std::unique_ptr<hobbit::Backend> backend_;
  std::vector<std::shared_ptr<const hobbit::ReadLayout>> layouts_;
  std::shared_ptr<const hobbit::ReadLayout> layout_of_[hobbit::kMaxSegments][hobbit::kMaxSegments + 1];  // [first][last]
  std::vector<RecordFile> files_;  // by layer
  uint64_t num_orders_ = 0;
  std::string why_not_;
};

}  // namespace

NB_MODULE(_native, m) {
  nb::class_<DriveReader>(m, "DriveReader")
      .def(nb::init<int, bool, bool, nb::object>(), "depth"_a, "drop_cached"_a, "use_uring"_a = true,
           "read"_a = nb::none())
      .def_prop_ro("method", &DriveReader::method)
      .def("add_layout", &DriveReader::add_layout, "segments"_a, "parts"_a)
      .def("set_file",
           [](DriveReader& r, size_t layer, int fd, int64_t file_bytes, int64_t first_record, int64_t record_bytes,
              Checksums checksums, bool has_stamp) {
             r.set_file(layer, {fd, file_bytes, first_record, record_bytes, has_stamp, std::move(checksums)});
           },
           "layer"_a, "fd"_a, "file_bytes"_a, "first_record"_a, "record_bytes"_a, "checksums"_a, "has_stamp"_a)
      .def("set_layout", &DriveReader::set_layout, "first"_a, "last"_a, "layout"_a)
      .def("port",
           [](DriveReader& r) { return nb::capsule(static_cast<hobbit::ReadPort*>(&r), hobbit::kReadPort); })
      .def("submit",
           nb::overload_cast<uint64_t, int, size_t, int, int64_t, int64_t,
                             const std::vector<std::pair<uint64_t, size_t>>&, std::vector<uint32_t>, bool, uint32_t,
                             uint32_t>(&DriveReader::submit),
           "id"_a, "priority"_a, "layout"_a, "fd"_a, "file_bytes"_a, "offset"_a,
           "targets"_a, "checksums"_a, "has_stamp"_a, "layer"_a, "expert"_a)
      .def("wait", &DriveReader::wait_for_some, "timeout_s"_a)
      .def("promote", &DriveReader::promote_queued, "id"_a, "priority"_a)
      .def("cancel", &DriveReader::cancel, "id"_a)
      .def("forget", &DriveReader::forget, "id"_a)
      .def("stats", &DriveReader::stats)
      .def("close", &DriveReader::close, "timeout_s"_a);
}
