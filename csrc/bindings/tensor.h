// Reads tensors of any library through DLPack, without copies and without torch's headers.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../core/kernels.h"

namespace codescaler {

// The layout that the DLPack standard fixes (https://dmlc.github.io/dlpack, version 0.x capsules).
struct DLTensor {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;  // null: C order
  uint64_t byte_offset;
};

enum class DType { float32, float64, bfloat16, int8, int32, int64, boolean, other };

inline const char* name_of(DType dtype) {
  static const char* const names[] = {"float32", "float64", "bfloat16", "int8",
                                      "int32",   "int64",   "bool",     "another dtype"};
  return names[int(dtype)];
}

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::float32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::float64;
}
template <>
constexpr DType dtype_of<BFloat16>() {
  return DType::bfloat16;
}
template <>
constexpr DType dtype_of<int8_t>() {
  return DType::int8;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::int32;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::int64;
}
template <>
constexpr DType dtype_of<bool>() {
  return DType::boolean;
}

// One tensor argument, borrowed for the call. A check that fails throws ValueError with operation and argument named.
class Tensor {
 public:
  Tensor(const pybind11::object& source, const char* name) : name_(name), owner_(source.attr("__dlpack__")()) {
    auto* tensor = static_cast<DLTensor*>(PyCapsule_GetPointer(owner_.ptr(), "dltensor"));
    if (!tensor) throw pybind11::error_already_set();
    if (tensor->device.type != 1) fail("is not in CPU memory");
    data_ = static_cast<char*>(tensor->data) + tensor->byte_offset;
    shape_.assign(tensor->shape, tensor->shape + tensor->ndim);
    strides_.resize(shape_.size());
    int64_t dense = 1;
    for (size_t d = shape_.size(); d-- > 0; dense *= shape_[d])
      strides_[d] = tensor->strides ? tensor->strides[d] : dense;
    const auto type = tensor->dtype;
    dtype_ = type.lanes != 1                     ? DType::other
             : type.code == 2 && type.bits == 32 ? DType::float32
             : type.code == 2 && type.bits == 64 ? DType::float64
             : type.code == 4 && type.bits == 16 ? DType::bfloat16
             : type.code == 0 && type.bits == 8  ? DType::int8
             : type.code == 0 && type.bits == 32 ? DType::int32
             : type.code == 0 && type.bits == 64 ? DType::int64
             : type.code == 6 && type.bits == 8  ? DType::boolean
                                                 : DType::other;
  }

  DType dtype() const { return dtype_; }
  int64_t size(size_t d) const { return shape_.at(d); }
  int64_t ndim() const { return int64_t(shape_.size()); }
  int64_t row_stride() const { return strides_.at(0); }

  // The data, once dtype and sizes (-1: any) are as asked and the last dimension is contiguous; with `is_dense`
  // the whole of it.
  template <class T>
  T* get(std::initializer_list<int64_t> shape, bool is_dense = true) const {
    if (dtype_ != dtype_of<T>()) fail(std::string("is ") + name_of(dtype_) + ", not " + name_of(dtype_of<T>()));
    if (shape_.size() != shape.size())
      fail("has " + std::to_string(shape_.size()) + " dimensions, not " + std::to_string(shape.size()));
    size_t d = 0;
    for (const int64_t wanted : shape) {
      if (wanted >= 0 && shape_[d] != wanted)
        fail("has size " + std::to_string(shape_[d]) + " in dimension " + std::to_string(d) + ", not " +
             std::to_string(wanted));
      ++d;
    }
    int64_t dense = 1;
    for (d = shape_.size(); d-- > 0; dense *= shape_[d])
      if (shape_[d] > 1 && strides_[d] != dense && (is_dense || d + 1 == shape_.size()))
        fail("has stride " + std::to_string(strides_[d]) + " in dimension " + std::to_string(d) + ", not " +
             std::to_string(dense));
    return static_cast<T*>(data_);
  }

  // A matrix whose rows may lie apart.
  template <class T>
  T* rows(int64_t num_rows, int64_t width) const {
    return get<T>({num_rows, width}, false);
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument(std::string(name_) + " " + what);
  }

 private:
  const char* name_;
  pybind11::object owner_;
  void* data_ = nullptr;
  DType dtype_ = DType::other;
  std::vector<int64_t> shape_, strides_;
};

}  // namespace codescaler
