package comet

import (
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// A pageFile holds a chunk's bytes in a file in memory, for sendfile(2): it gives a socket the
// file's pages themselves, where send(2) has the kernel find and fill as many for each of ten
// thousand sockets. Pages that a socket holds live on by themselves, as they are, so they must
// not be written again: a file that is emptied as a whole gets new ones.
//
// It is a bare descriptor, as an os.File would be closed by whatever thread collects it, and
// that may have another table of descriptors.
type pageFile struct{ fd int }

const (
	// sharedUses is how many sessions must have got a chunk by send until it's put in a file,
	// which costs as much as several sends of it.
	sharedUses = 16
	// maxPageFiles bounds the files of a shard, and with them its descriptors.
	maxPageFiles = 16
)

// pageFiles are the files of one shard, which owns them. The zero value shares nothing.
type pageFiles struct {
	least int // bytes from which on a chunk is shared, 0 for never
	log   *slog.Logger
	free  []*pageFile
	made  int
}

// hold returns a file with the bytes b, or nil where they aren't worth one or none is to be had.
func (p *pageFiles) hold(b []byte) *pageFile {
	if p == nil || p.least == 0 || len(b) < p.least {
		return nil
	}
	f, err := p.take()
	if f != nil {
		err = f.write(b)
	}
	if err != nil {
		// send does it as well.
		p.log.Warn("share a chunk's pages; it is copied from now on", "err", err)
		p.least = 0
		return nil
	}
	return f
}

// take returns an empty file, or nil where too many are in use.
func (p *pageFiles) take() (*pageFile, error) {
	if last := len(p.free) - 1; last >= 0 {
		f := p.free[last]
		p.free = p.free[:last]
		return f, nil
	}
	if p.made == maxPageFiles {
		return nil, nil
	}
	fd, err := unix.MemfdCreate("barrage-chunk", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	p.made++
	return &pageFile{fd}, nil
}

// write puts b into the file, which is empty.
func (f *pageFile) write(b []byte) error {
	for done := 0; done < len(b); {
		n, err := unix.Pwrite(f.fd, b[done:], int64(done))
		if err != nil {
			return os.NewSyscallError("pwrite", err)
		}
		done += n
	}
	return nil
}

// release empties a file that hold returned, for the next chunk. It may be nil.
func (p *pageFiles) release(f *pageFile) {
	if f == nil {
		return
	}
	if err := unix.Ftruncate(f.fd, 0); err != nil {
		_ = unix.Close(f.fd) // its pages must not be written again
		p.made--
		return
	}
	p.free = append(p.free, f)
}

// close ends the files that nobody holds. The shard is at its end.
func (p *pageFiles) close() {
	for _, f := range p.free {
		_ = unix.Close(f.fd)
	}
	p.free = nil
}
