// A libnvrtc for machines without one. It compiles nothing: it checks what it is given as far as that can be checked, and
// returns an image for the fake driver.
#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "entries.cuh"

namespace {
enum Result { kOk = 0, kCompilation = 6, kInvalidOption = 5 };
struct Program { std::string source, log, image; std::map<std::string, std::string> headers; };
int major_version = 12, minor_version = 6;
bool broken = false;

// Of the two versions as far as tests tell them apart: Thor's architecture came with 13.
std::array<int, 3> architectures() { return major_version < 13 ? std::array<int, 3>{80, 87, 90} : std::array<int, 3>{87, 90, 110}; }

// Headers a text includes that were not handed over.
std::string missing_header(const Program& p, const std::string& text, std::set<std::string>& seen) {
  static const std::regex include("(^|\n)#include \"([^\"]+)\"");
  for (std::sregex_iterator it(text.begin(), text.end(), include), end; it != end; ++it) {
    const std::string name = (*it)[2];
    if (name == "cuda_on_host.hpp" || !seen.insert(name).second) continue;  // the host's branch
    const auto header = p.headers.find(name);
    if (header == p.headers.end()) return name;
    const std::string missing = missing_header(p, header->second, seen);
    if (!missing.empty()) return missing;
  }
  return "";
}
}  // namespace

extern "C" {
void fake_nvrtc(int major, int minor, int is_broken) { major_version = major, minor_version = minor, broken = is_broken != 0; }
int nvrtcVersion(int* major, int* minor) { *major = major_version, *minor = minor_version; return kOk; }
int nvrtcGetNumSupportedArchs(int* out) { *out = static_cast<int>(architectures().size()); return kOk; }
int nvrtcGetSupportedArchs(int* out) {
  for (const int arch : architectures()) *out++ = arch;
  return kOk;
}
int nvrtcCreateProgram(Program** out, const char* source, const char*, int count, const char* const* headers, const char* const* names) {
  *out = new Program{source, "", "", {}};
  for (int i = 0; i < count; ++i) (*out)->headers[names[i]] = headers[i];
  return kOk;
}
int nvrtcCompileProgram(Program* p, int count, const char* const* options) {
  std::string arch;
  for (int i = 0; i < count; ++i)
    if (!std::strncmp(options[i], "--gpu-architecture=", 19)) arch = options[i] + 19;
  bool known = false;
  for (const int each : architectures()) known = known || arch == "sm_" + std::to_string(each);
  if (!known) return p->log = "invalid value for --gpu-architecture", kInvalidOption;
  std::set<std::string> seen;
  const std::string missing = missing_header(*p, p->source, seen);
  if (!missing.empty()) return p->log = "cannot open source file \"" + missing + "\"", kCompilation;
  if (broken) return p->log = "hobbit.cu(1): error: planted", kCompilation;
  p->image = std::string("\177ELFFAKE") + arch;
#define ADD(name) p->image += std::string("\0", 1) + #name;
  HB_KERNELS(ADD)
  p->image.resize(100000);
  return kOk;
}
int nvrtcGetCUBINSize(Program* p, size_t* out) { *out = p->image.size(); return kOk; }
int nvrtcGetCUBIN(Program* p, char* out) { std::memcpy(out, p->image.data(), p->image.size()); return kOk; }
int nvrtcGetProgramLogSize(Program* p, size_t* out) { *out = p->log.size() + 1; return kOk; }
int nvrtcGetProgramLog(Program* p, char* out) { std::strcpy(out, p->log.c_str()); return kOk; }
int nvrtcDestroyProgram(Program** p) { delete *p; *p = nullptr; return kOk; }
const char* nvrtcGetErrorString(int code) { return code == kInvalidOption ? "NVRTC_ERROR_INVALID_OPTION" : "NVRTC_ERROR_COMPILATION"; }
}
