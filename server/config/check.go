package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Check holds the settings of cfg, a pointer to a struct, against their tags
//
//	range:"10ms..1m"    a number or a duration; either end may be left out
//	oneof:"skip close"  one of these words
//	need:"a topic"      not empty (nor, in a list, any item)
//
// and returns what is wrong with all of them, each with its path, value and what is
// accepted.
func Check(cfg any) error { return CheckAt("", cfg) }

// CheckAt is Check for a section: section is put in front of the paths.
func CheckAt(section string, cfg any) error {
	leaves, err := collect(cfg)
	if err != nil {
		return err
	}
	var errs []error
	for _, lf := range leaves {
		path := lf.path
		if section != "" {
			path = section + "." + path
		}
		if err := lf.check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// check holds the value against the tags.
func (lf *leaf) check() error {
	if lf.accepted != "" {
		low, high, err := lf.bounds()
		if err != nil {
			return err
		}
		v, err := lf.number()
		if err != nil {
			return err
		}
		a, b, _ := strings.Cut(lf.accepted, "..")
		switch below, above := low != nil && v < *low, high != nil && v > *high; {
		case below && b == "":
			return fmt.Errorf("%v is less than %s", lf.value.Interface(), a)
		case above && a == "":
			return fmt.Errorf("%v is more than %s", lf.value.Interface(), b)
		case below, above:
			return fmt.Errorf("%v is outside %s to %s", lf.value.Interface(), a, b)
		}
	}
	if lf.oneOf != "" {
		words := strings.Fields(lf.oneOf)
		if !slices.Contains(words, lf.value.String()) {
			return fmt.Errorf("%q is none of %s", lf.value.String(), strings.Join(words, ", "))
		}
	}
	if lf.need == "" {
		return nil
	}
	switch lf.value.Kind() {
	case reflect.Slice:
		for i := range lf.value.Len() {
			if lf.value.Index(i).IsZero() {
				return fmt.Errorf("item %d is empty; it needs %s", i+1, lf.need)
			}
		}
		if lf.value.Len() == 0 {
			return fmt.Errorf("it is empty; it needs %s", lf.need)
		}
	default:
		if lf.value.IsZero() {
			return fmt.Errorf("it is empty; it needs %s", lf.need)
		}
	}
	return nil
}

// number is the value for comparing: a duration's in ns.
func (lf *leaf) number() (float64, error) {
	switch {
	case isInt(lf.value.Type()):
		return float64(lf.value.Int()), nil
	case isUint(lf.value.Type()):
		return float64(lf.value.Uint()), nil
	case lf.value.CanFloat():
		return lf.value.Float(), nil
	default:
		return 0, fmt.Errorf("a %s has no range", lf.value.Type())
	}
}

// bounds are the ends of the range, nil where it is open.
func (lf *leaf) bounds() (low, high *float64, err error) {
	a, b, ok := strings.Cut(lf.accepted, "..")
	if !ok {
		return nil, nil, fmt.Errorf("the range %q has no dots", lf.accepted)
	}
	if low, err = lf.bound(a); err == nil {
		high, err = lf.bound(b)
	}
	return low, high, err
}

func (lf *leaf) bound(text string) (*float64, error) {
	if text == "" {
		return nil, nil
	}
	if lf.value.Type() == durationType {
		d, err := time.ParseDuration(text)
		v := float64(d)
		return &v, err
	}
	v, err := strconv.ParseFloat(text, 64)
	return &v, err
}

// rangeText is the range in words.
func (lf *leaf) rangeText() string {
	a, b, _ := strings.Cut(lf.accepted, "..")
	switch {
	case a == "":
		return "at most " + b
	case b == "":
		return a + " and more"
	default:
		return a + " to " + b
	}
}

// wants says in words what the tags accept, "" when anything is.
func (lf *leaf) wants() string {
	switch {
	case lf.accepted != "":
		return lf.rangeText()
	case lf.oneOf != "":
		return "one of " + strings.Join(strings.Fields(lf.oneOf), ", ")
	default:
		return ""
	}
}
