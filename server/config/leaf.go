package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/BurntSushi/toml"
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// A leaf is one setting.
type leaf struct {
	path  string // as in TOML, with dots
	doc   string
	flag  string // a name besides -path, or ""
	env   string // a name besides BARRAGE_PATH, or ""
	value reflect.Value

	accepted, oneOf, need string // see Check

	secret bool // no message repeats the value; tag secret:"yes"
}

// flags are the names (without dash) that set the leaf.
func (lf *leaf) flags() []string {
	if lf.flag == "" || lf.flag == lf.path {
		return []string{lf.path}
	}
	return []string{lf.path, lf.flag}
}

// variable is the leaf's own environment variable.
func (lf *leaf) variable() string {
	return "BARRAGE_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(lf.path))
}

func (lf *leaf) isBool() bool { return lf.value.Kind() == reflect.Bool }

// wanted says what kind of value the leaf takes, for a message; lf may be nil.
func (lf *leaf) wanted() string {
	if lf == nil {
		return ""
	}
	return ", " + kindName(lf.value.Type())
}

// collect finds the leaves of the struct that dst points to, in order.
func collect(dst any) ([]*leaf, error) {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("config: Dst is %T, not a pointer to a struct", dst)
	}
	var leaves []*leaf
	if err := walk(v.Elem(), "", &leaves); err != nil {
		return nil, err
	}
	paths := map[string]bool{}
	for _, lf := range leaves {
		lower := strings.ToLower(lf.path)
		if paths[lower] {
			return nil, fmt.Errorf("config: %T has two settings named %s", dst, lf.path)
		}
		paths[lower] = true
	}
	return leaves, nil
}

func walk(v reflect.Value, path string, leaves *[]*leaf) error {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		tag, option, _ := strings.Cut(field.Tag.Get("toml"), ",")
		if tag == "-" || !field.IsExported() && !field.Anonymous {
			continue
		}
		isStruct := field.Type.Kind() == reflect.Struct && !reflect.PointerTo(field.Type).Implements(textType)
		if isStruct && (field.Anonymous && tag == "" || option == "inline") {
			if err := walk(v.Field(i), path, leaves); err != nil {
				return err
			}
			continue
		}
		if tag == "" {
			tag = lowerFirst(field.Name)
		}
		fieldPath := tag
		if path != "" {
			fieldPath = path + "." + tag
		}
		if isStruct {
			if err := walk(v.Field(i), fieldPath, leaves); err != nil {
				return err
			}
			continue
		}
		if !settable(field.Type) {
			return fmt.Errorf("config: %s is a %s, which can't be set", fieldPath, field.Type)
		}
		*leaves = append(*leaves, &leaf{
			path:  fieldPath,
			doc:   field.Tag.Get("doc"),
			flag:  field.Tag.Get("flag"),
			env:   field.Tag.Get("env"),
			value: v.Field(i),

			accepted: field.Tag.Get("range"), oneOf: field.Tag.Get("oneof"), need: field.Tag.Get("need"),
			secret: field.Tag.Get("secret") != "",
		})
	}
	return nil
}

// lowerFirst is goim's spelling of a field's name: RPCServer is rpcServer.
func lowerFirst(name string) string {
	runes := []rune(name)
	for i, r := range runes {
		if !unicode.IsUpper(r) || i > 0 && i+1 < len(runes) && unicode.IsLower(runes[i+1]) {
			break
		}
		runes[i] = unicode.ToLower(r)
	}
	return string(runes)
}

func settable(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textType) {
		return true
	}
	switch t.Kind() {
	case reflect.Slice:
		return t.Elem().Kind() != reflect.Slice && t.Elem().Kind() != reflect.Map && settable(t.Elem())
	case reflect.Map:
		return t.Key().Kind() == reflect.String && t.Elem().Kind() != reflect.Map && settable(t.Elem())
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64:
		return true
	}
	return isInt(t) || isUint(t)
}

func isInt(t reflect.Type) bool  { return t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64 }
func isUint(t reflect.Type) bool { return t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64 }

// set assigns a value as the TOML decoder gives it.
func (lf *leaf) set(from any) error {
	v, err := convert(lf.value.Type(), from)
	if err != nil {
		return lf.discreet(err)
	}
	lf.value.Set(v)
	return nil
}

// discreet is err, which may repeat a value, or, where that is a secret, one that doesn't.
func (lf *leaf) discreet(err error) error {
	if !lf.secret {
		return err
	}
	return fmt.Errorf("the value, which is a secret and not shown, is not %s", kindName(lf.value.Type()))
}

// setText assigns a value as flags and variables give it.
func (lf *leaf) setText(text string) error {
	from, err := parse(lf.value.Type(), text)
	if err != nil {
		return lf.discreet(err)
	}
	return lf.set(from)
}

// parse turns text into what the TOML decoder would give for a setting of type t.
func parse(t reflect.Type, text string) (any, error) {
	wrong := func() error { return fmt.Errorf("%q is not %s", text, kindName(t)) }
	switch {
	case t == durationType || reflect.PointerTo(t).Implements(textType) || t.Kind() == reflect.String:
		return text, nil
	case t.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, wrong()
		}
		return b, nil
	case isInt(t), isUint(t):
		n, err := strconv.ParseInt(text, 0, 64)
		if errors.Is(err, strconv.ErrRange) {
			return nil, fmt.Errorf("%s is out of range: %s", text, kindName(t))
		}
		if err != nil {
			return nil, wrong()
		}
		return n, nil
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, wrong()
		}
		return f, nil
	case t.Kind() == reflect.Slice:
		list := []any{}
		if text == "" {
			return list, nil
		}
		for _, item := range strings.Split(text, ",") {
			v, err := parse(t.Elem(), strings.TrimSpace(item))
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	default: // a map
		var tree map[string]any
		if _, err := toml.Decode("value = "+text, &tree); err != nil || len(tree) != 1 {
			return nil, wrong()
		}
		return tree["value"], nil
	}
}

// convert makes a value of type t from one of the TOML decoder's types.
func convert(t reflect.Type, from any) (reflect.Value, error) {
	v := reflect.New(t).Elem()
	wrong := func() (reflect.Value, error) {
		return v, fmt.Errorf("%s is not %s", show(from), kindName(t))
	}
	if t == durationType {
		text, ok := from.(string)
		if !ok {
			return wrong()
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			return wrong()
		}
		v.SetInt(int64(d))
		return v, nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		text, ok := from.(string)
		if !ok {
			return wrong()
		}
		return v, u.UnmarshalText([]byte(text))
	}
	switch x := from.(type) {
	case bool:
		if t.Kind() != reflect.Bool {
			return wrong()
		}
		v.SetBool(x)
	case string:
		switch {
		case t.Kind() == reflect.String:
			v.SetString(x)
		case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
			// goim has lists that are one text, with commas.
			list, err := parse(t, x)
			if err != nil {
				return v, err
			}
			return convert(t, list)
		default:
			return wrong()
		}
	case float64:
		if t.Kind() != reflect.Float64 && t.Kind() != reflect.Float32 || math.IsNaN(x) || math.IsInf(x, 0) {
			return wrong()
		}
		v.SetFloat(x)
	case int64:
		switch {
		case t.Kind() == reflect.Float64 || t.Kind() == reflect.Float32:
			v.SetFloat(float64(x))
		case isInt(t) && !v.OverflowInt(x):
			v.SetInt(x)
		case isUint(t) && x >= 0 && !v.OverflowUint(uint64(x)):
			v.SetUint(uint64(x))
		case isInt(t) || isUint(t):
			return v, fmt.Errorf("%d is out of range: %s", x, kindName(t))
		default:
			return wrong()
		}
	case []any:
		if t.Kind() != reflect.Slice {
			return wrong()
		}
		v.Set(reflect.MakeSlice(t, 0, len(x)))
		for _, item := range x {
			element, err := convert(t.Elem(), item)
			if err != nil {
				return v, err
			}
			v.Set(reflect.Append(v, element))
		}
	case map[string]any:
		if t.Kind() != reflect.Map {
			return wrong()
		}
		v.Set(reflect.MakeMapWithSize(t, len(x)))
		for _, key := range sortedKeys(x) {
			element, err := convert(t.Elem(), x[key])
			if err != nil {
				return v, fmt.Errorf("%s: %w", key, err)
			}
			v.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), element)
		}
	default:
		return wrong()
	}
	return v, nil
}

// kindName says in words what a setting of type t takes.
func kindName(t reflect.Type) string {
	switch {
	case t == durationType:
		return `a duration like "1s", "500ms" or "4m"`
	case reflect.PointerTo(t).Implements(textType):
		return "a text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "a text"
	case isInt(t):
		limit := int64(math.MaxInt64) >> (64 - t.Bits())
		return fmt.Sprintf("a whole number from %d to %d", -limit-1, limit)
	case isUint(t):
		return fmt.Sprintf("a whole number from 0 to %d", uint64(math.MaxInt64)>>max(0, 63-t.Bits()))
	case t.Kind() == reflect.Slice:
		return "a list, each item " + kindName(t.Elem())
	case t.Kind() == reflect.Map:
		return "a table of names, each with " + kindName(t.Elem())
	default:
		return "a number"
	}
}

// show writes a decoded value as the user may have.
func show(v any) string {
	switch x := v.(type) {
	case string:
		return strconv.Quote(x)
	case map[string]any, []map[string]any:
		return "a table"
	case []any:
		return "a list"
	default:
		return fmt.Sprint(x)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
