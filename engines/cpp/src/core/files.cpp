#include "core/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace alexnet_deploy {
namespace {

std::string reason_of(int number) { return std::generic_category().message(number); }

const char* kind_of(mode_t mode) {
    switch (mode & S_IFMT) {
        case S_IFLNK: return "a symbolic link";
        case S_IFDIR: return "a directory";
        case S_IFIFO: return "a pipe";
        case S_IFSOCK: return "a socket";
        case S_IFCHR:
        case S_IFBLK: return "a device";
        default: return "a file";
    }
}

void refuse_other_kinds(const struct stat& status) {
    if (!S_ISREG(status.st_mode)) {
        throw FileError(S_ISDIR(status.st_mode) ? EISDIR : EINVAL,
                        std::string("it is ") + kind_of(status.st_mode) + ", not a regular file");
    }
}

}  // namespace

PlainFile::PlainFile(const std::filesystem::path& path, Links links) {
    const bool refuses_links = links == Links::refused;
    struct stat status {};
    // Looked at before and after opening: opening a device may have side effects, and the path may be replaced.
    if ((refuses_links ? ::lstat(path.c_str(), &status) : ::stat(path.c_str(), &status)) != 0) {
        throw FileError(errno, reason_of(errno));
    }
    refuse_other_kinds(status);
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | (refuses_links ? O_NOFOLLOW : 0));
    if (descriptor_ < 0) {
        throw FileError(errno, reason_of(errno));
    }
    try {
        if (::fstat(descriptor_, &status) != 0) {
            throw FileError(errno, reason_of(errno));
        }
        refuse_other_kinds(status);
    } catch (...) {
        ::close(descriptor_);
        throw;
    }
    size_ = static_cast<std::uint64_t>(status.st_size);
}

PlainFile::~PlainFile() { ::close(descriptor_); }

bool PlainFile::holds_more_than_stated() const {
    std::uint8_t byte = 0;
    // Opened with O_NONBLOCK, so it does not wait for a byte.
    const ssize_t count = ::read(descriptor_, &byte, 1);
    if (count < 0) {
        throw FileError(errno, reason_of(errno) + "; it is not a stored file");
    }
    return count > 0;
}

std::vector<std::uint8_t> PlainFile::read() const {
    std::vector<std::uint8_t> content(size_);
    std::size_t filled = 0;
    while (filled < content.size()) {
        const ssize_t count = ::read(descriptor_, content.data() + filled, content.size() - filled);
        if (count < 0 && errno != EINTR) {
            throw FileError(errno, reason_of(errno));
        }
        if (count == 0) {
            break;
        }
        filled += count > 0 ? static_cast<std::size_t>(count) : 0;
    }
    content.resize(filled);
    return content;
}

}  // namespace alexnet_deploy
