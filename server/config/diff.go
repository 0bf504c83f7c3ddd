package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Diff returns the paths of the settings that differ between two configurations, pointers to
// structs of one type, in the order of the struct.
func Diff(a, b any) ([]string, error) {
	if reflect.TypeOf(a) != reflect.TypeOf(b) {
		return nil, fmt.Errorf("config: %T and %T can't be compared", a, b)
	}
	old, err := collect(a)
	if err != nil {
		return nil, err
	}
	now, err := collect(b)
	if err != nil {
		return nil, err
	}
	var paths []string
	for i, lf := range old {
		if !same(lf.value, now[i].value) {
			paths = append(paths, lf.path)
		}
	}
	return paths, nil
}

// Copy sets those settings of dst that paths name to what src has; both are pointers to
// structs of one type.
func Copy(dst, src any, paths []string) error {
	if reflect.TypeOf(dst) != reflect.TypeOf(src) {
		return fmt.Errorf("config: a %T can't be copied to a %T", src, dst)
	}
	to, err := collect(dst)
	if err != nil {
		return err
	}
	from, err := collect(src)
	if err != nil {
		return err
	}
	for i, lf := range to {
		if slices.Contains(paths, lf.path) {
			lf.value.Set(from[i].value)
		}
	}
	return nil
}

// same compares two settings; an empty list is as good as none.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// Split divides the paths that Diff found into those at or below one of the given paths,
// and the others.
func Split(paths, below []string) (in, out []string) {
	for _, p := range paths {
		if slices.ContainsFunc(below, func(b string) bool { return p == b || strings.HasPrefix(p, b+".") }) {
			in = append(in, p)
		} else {
			out = append(out, p)
		}
	}
	return in, out
}

// A RestartError names settings that changed and are not taken over before a restart.
type RestartError struct{ Paths []string }

// Error names them.
func (e *RestartError) Error() string {
	return "these settings take effect at the next start: " + strings.Join(e.Paths, ", ")
}
