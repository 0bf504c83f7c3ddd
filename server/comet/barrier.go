package comet

import (
	"reflect"
	"sync/atomic"
	"unsafe"

	"github.com/cloudwego/netpoll"
)

// shareBarrier lets a connection share the vectors that netpoll gives each one for its own
// flush: 1.4 KB, more than a third of all that a session takes, and never used here, since
// netpoll's writer blocks and comet sends on the descriptor itself. They are a private field,
// so where it isn't found as it is in netpoll v0.7.2 the connection keeps its own;
// TestBarrierIsShared says so when that happens. It must be called in OnPrepare, before the
// connection is polled.
func shareBarrier(c netpoll.Connection) {
	v := reflect.ValueOf(c)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return
	}
	f := v.Elem().FieldByName("outputBarrier")
	if !f.IsValid() || f.Kind() != reflect.Pointer || f.IsNil() {
		return
	}
	// The first connection's vectors serve all; any would do, as nobody writes to them.
	own := f.UnsafePointer()
	if sharedBarrier.CompareAndSwap(nil, &own) {
		return
	}
	*(*unsafe.Pointer)(unsafe.Pointer(f.UnsafeAddr())) = *sharedBarrier.Load()
}

// sharedBarrier is set once. Netpoll's pool of barriers is global, and so is this.
var sharedBarrier atomic.Pointer[unsafe.Pointer]
