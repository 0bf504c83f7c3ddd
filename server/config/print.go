package config

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Print writes the settings of spec as a complete TOML file, each with what it is, what it
// accepts, and its flag and environment variable. What it writes loads as what spec.Dst
// holds.
func Print(w io.Writer, spec Spec) error {
	leaves, err := collect(spec.Dst)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Settings of barrage %s. Each is a key of this file (-%s FILE), a flag and an\n", spec.Role, fileFlag)
	b.WriteString("# environment variable; flags win over variables, variables over the file.\n")
	// What stands at the top must come before the first section, and a section once.
	var sections []string
	by := map[string][]*leaf{}
	for _, lf := range leaves {
		section := lf.path[:max(0, strings.LastIndexByte(lf.path, '.'))]
		if by[section] == nil && section != "" {
			sections = append(sections, section)
		}
		by[section] = append(by[section], lf)
	}
	for _, section := range append([]string{""}, sections...) {
		if section != "" {
			fmt.Fprintf(&b, "\n[%s]\n", section)
		}
		for i, lf := range by[section] {
			if i > 0 || section == "" {
				b.WriteByte('\n')
			}
			if err := lf.print(&b); err != nil {
				return fmt.Errorf("print %s: %w", lf.path, err)
			}
		}
	}
	_, err = w.Write(b.Bytes())
	return err
}

func (lf *leaf) print(b *bytes.Buffer) error {
	for _, line := range wrap(lf.doc, 96) {
		fmt.Fprintf(b, "# %s\n", line)
	}
	notes := []string{}
	if wants := lf.wants(); wants != "" {
		notes = append(notes, "accepted: "+wants)
	}
	notes = append(notes, "flag -"+strings.Join(lf.flags(), " or -"))
	variables := lf.variable()
	if lf.env != "" {
		variables += " or " + lf.env
	}
	notes = append(notes, "variable "+variables)
	fmt.Fprintf(b, "# (%s)\n", strings.Join(notes, "; "))
	key := lf.path[strings.LastIndexByte(lf.path, '.')+1:]
	text, err := tomlValue(lf.value)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "%s = %s\n", key, text)
	return nil
}

// tomlValue writes a value on one line.
func tomlValue(v reflect.Value) (string, error) {
	if v.Type() == durationType {
		return fmt.Sprintf("%q", showDuration(time.Duration(v.Int()))), nil
	}
	if v.Kind() == reflect.Slice {
		items := make([]string, v.Len())
		for i := range items {
			item, err := tomlValue(v.Index(i))
			if err != nil {
				return "", err
			}
			items[i] = item
		}
		return "[" + strings.Join(items, ", ") + "]", nil
	}
	if v.Kind() == reflect.Map {
		var items []string
		for _, key := range sortedKeys(asMap(v)) {
			item, err := tomlValue(v.MapIndex(reflect.ValueOf(key).Convert(v.Type().Key())))
			if err != nil {
				return "", err
			}
			items = append(items, fmt.Sprintf("%s = %s", quote(key), item))
		}
		return "{" + strings.Join(items, ", ") + "}", nil
	}
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(map[string]any{"v": v.Interface()}); err != nil {
		return "", err
	}
	_, text, _ := strings.Cut(strings.TrimSpace(b.String()), " = ")
	return text, nil
}

func asMap(v reflect.Value) map[string]bool {
	m := make(map[string]bool, v.Len())
	for _, key := range v.MapKeys() {
		m[key.String()] = true
	}
	return m
}

// quote writes a key as TOML has it.
func quote(key string) string {
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(map[string]int{key: 0}); err != nil {
		return fmt.Sprintf("%q", key)
	}
	return strings.TrimSuffix(strings.TrimSpace(b.String()), " = 0")
}

// showDuration leaves out the parts that are zero: 4m, not 4m0s.
func showDuration(d time.Duration) string {
	s := d.String()
	if d == 0 || !strings.HasSuffix(s, "m0s") {
		return s
	}
	s = strings.TrimSuffix(s, "0s")
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// wrap breaks a text into lines of at most width bytes, between words.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
