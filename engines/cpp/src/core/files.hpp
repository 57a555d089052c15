// Plain files, read whole: never a pipe, a device or a directory, and at most the stated size.
#pragma once

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace alexnet_deploy {

/// The operating system refused to read a file; the message is its reason alone.
class FileError : public std::runtime_error {
public:
    FileError(int error_number, const std::string& reason) : std::runtime_error(reason), number(error_number) {}

    int number;
};

enum class Links { followed, refused };

/// An open plain file.
class PlainFile {
public:
    /// Throws FileError.
    PlainFile(const std::filesystem::path& path, Links links);
    ~PlainFile();
    PlainFile(const PlainFile&) = delete;
    PlainFile& operator=(const PlainFile&) = delete;

    /// Size in bytes when it was opened.
    [[nodiscard]] std::uint64_t size() const { return size_; }

    /// Whether a file that reports 0 bytes holds some, as the kernel's files in /proc do; takes one. Throws FileError.
    [[nodiscard]] bool holds_more_than_stated() const;

    /// The content, at most `size()` bytes: a file in /proc reports 0 and may never end. Throws FileError.
    [[nodiscard]] std::vector<std::uint8_t> read() const;

private:
    int descriptor_;
    std::uint64_t size_ = 0;
};

}  // namespace alexnet_deploy
