package profile

import (
	"net/url"
	"strings"
)

// shortNames returns a short name for each of Go's whole names, which stays unlike all
// others: barrage/server/comet.(*shard).sweep is comet.(*shard).sweep, and as much more of
// the path as it takes where two are the same.
func shortNames(whole []string) map[string]string {
	short := make(map[string]string, len(whole))
	for elements := 1; ; elements++ {
		owners := map[string][]string{}
		for _, name := range whole {
			if _, done := short[name]; !done {
				s := shorten(name, elements)
				owners[s] = append(owners[s], name)
			}
		}
		if len(owners) == 0 {
			return short
		}
		for s, names := range owners {
			// What can't be told apart by more of the path is written whole, like
			// f[go.shape.int] and f[go.shape.string].
			switch {
			case len(names) == 1:
				short[names[0]] = s
			case s == shorten(names[0], elements+1) && s == shorten(names[1], elements+1):
				for _, name := range names {
					short[name] = name
				}
			}
		}
	}
}

// shorten returns name with that many elements of its package's path, and without the
// types that a generic function was made for.
func shorten(name string, elements int) string {
	name = unescape(withoutTypes(name))
	slash := strings.LastIndexByte(name, '/')
	if slash < 0 {
		return name
	}
	dir := strings.Split(name[:slash], "/")
	last := name[slash+1:]
	// github.com/redis/go-redis/v9.(*Client).Do is of the package go-redis.
	if base, rest, ok := strings.Cut(last, "."); ok && isMajorVersion(base) && len(dir) > 0 {
		last = dir[len(dir)-1] + "." + rest
		dir = dir[:len(dir)-1]
	}
	// The runtime's own system calls are of a package linux, which says little.
	if strings.HasPrefix(name, "internal/runtime/syscall/") {
		elements++
	}
	from := max(0, len(dir)-elements+1)
	return strings.Join(append(dir[from:len(dir):len(dir)], last), "/")
}

// isMajorVersion says whether a path's last element is one like v9.
func isMajorVersion(element string) bool {
	digits, ok := strings.CutPrefix(element, "v")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// unescape undoes Go's escapes of a path's last element, as in gopkg.in/yaml%2ev3.
func unescape(name string) string {
	if s, err := url.PathUnescape(name); err == nil {
		return s
	}
	return name
}

// withoutTypes replaces what is in brackets behind a name by dots: f[go.shape.int] is
// f[...]. A name that is all brackets, that of a file, stays.
func withoutTypes(name string) string {
	if strings.HasPrefix(name, "[") {
		return name
	}
	var b strings.Builder
	depth := 0
	for _, c := range name {
		switch {
		case c == '[':
			if depth == 0 {
				b.WriteString("[...]")
			}
			depth++
		case c == ']' && depth > 0:
			depth--
		case depth == 0:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// An Origin is whose code a function is.
type Origin string

// The origins.
const (
	Ours     Origin = "barrage"
	Runtime  Origin = "Go runtime"
	Kernel   Origin = "system calls"
	Standard Origin = "standard library"
	Modules  Origin = "other modules"
	Foreign  Origin = "not Go"
)

// originOf tells it from the whole name.
func originOf(name string) Origin {
	pkg := packageOf(name)
	first, _, _ := strings.Cut(pkg, "/")
	switch {
	case pkg == "":
		return Foreign
	case first == "barrage" || first == "main":
		return Ours
	case pkg == "syscall" || strings.Contains(pkg, "/syscall") || pkg == "golang.org/x/sys/unix":
		return Kernel
	case first == "runtime" || strings.HasPrefix(pkg, "internal/runtime/"):
		return Runtime
	case strings.Contains(first, "."):
		return Modules
	}
	return Standard
}

// packageOf returns the path of a function's package; "" for what is no Go function. The
// runtime's assembly has names without a package, such as aeshashbody.
func packageOf(name string) string {
	if strings.HasPrefix(name, "[") {
		return ""
	}
	name = withoutTypes(name)
	slash := strings.LastIndexByte(name, '/') + 1
	dot := strings.IndexByte(name[slash:], '.')
	if dot < 0 {
		return "runtime"
	}
	return name[:slash+dot]
}
