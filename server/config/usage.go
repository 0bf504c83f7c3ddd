package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
)

// Usage writes spec's settings with their defaults and meanings, by section, and how the
// three ways to set them go together.
func Usage(w io.Writer, spec Spec) error {
	leaves, err := collect(spec.Dst)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Settings of barrage %s. Each is a flag (-tcp.bind), an environment variable\n", spec.Role)
	fmt.Fprintf(&b, "(BARRAGE_TCP_BIND) and a key of the TOML file given with -%s FILE ([tcp] bind);\n", fileFlag)
	fmt.Fprintf(&b, "flags win over variables, variables over the file. Lists have commas.\n")
	fmt.Fprintf(&b, "-%s writes all of them as a TOML file, as they are set.\n", printFlag)
	section := "\x00"
	for _, lf := range leaves {
		at := strings.LastIndexByte(lf.path, '.')
		if s := lf.path[:max(at, 0)]; s != section {
			section = s
			b.WriteByte('\n')
		}
		names := "-" + strings.Join(lf.flags(), ", -")
		fmt.Fprintf(&b, "  %s\n", names)
		if lf.doc != "" {
			fmt.Fprintf(&b, "        %s\n", lf.doc)
		}
		fmt.Fprintf(&b, "        default %s", showDefault(lf.value))
		if wants := lf.wants(); wants != "" {
			fmt.Fprintf(&b, "; accepted: %s", wants)
		}
		if lf.env != "" {
			fmt.Fprintf(&b, "; also $%s", lf.env)
		}
		b.WriteByte('\n')
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func showDefault(v reflect.Value) string {
	if d, ok := v.Interface().(time.Duration); ok {
		return d.String()
	}
	switch v.Kind() {
	case reflect.String:
		return fmt.Sprintf("%q", v.String())
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = fmt.Sprint(v.Index(i).Interface())
		}
		return `"` + strings.Join(items, ",") + `"`
	case reflect.Map:
		if v.Len() == 0 {
			return "{}"
		}
	}
	return fmt.Sprint(v.Interface())
}
