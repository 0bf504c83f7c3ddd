package scenario

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"

	"barrage/harness/report"
)

// A schema is a JSON schema, draft 7, which is what editors know for YAML: as much of it as
// a scenario needs.
type schema struct {
	Schema               string            `json:"$schema,omitempty"`
	Title                string            `json:"title,omitempty"`
	Description          string            `json:"description,omitempty"`
	Type                 any               `json:"type,omitempty"` // a name or several
	Properties           properties        `json:"properties,omitempty"`
	PatternProperties    map[string]schema `json:"patternProperties,omitempty"`
	AdditionalProperties *bool             `json:"additionalProperties,omitempty"`
	Required             []string          `json:"required,omitempty"`
	Items                *schema           `json:"items,omitempty"`
	MinItems             int               `json:"minItems,omitempty"`
	Pattern              string            `json:"pattern,omitempty"`
	Enum                 []string          `json:"enum,omitempty"`
	Minimum              json.Number       `json:"minimum,omitempty"`
	Maximum              json.Number       `json:"maximum,omitempty"`
	Default              any               `json:"default,omitempty"`
	AnyOf                []schema          `json:"anyOf,omitempty"`
}

// properties keep the order of the table of fields.
type properties []property

type property struct {
	name string
	schema
}

// MarshalJSON writes an object.
func (p properties) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, f := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(f.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(f.schema)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s:%s", name, value)
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}

// anyLine stands for the name of a line of pushes in the figures that are its own.
const anyLine = "NAME"

// patterns are the forms that YAML has no type for, as regular expressions of ECMA 262.
var patterns = map[form]string{
	formRate:     `^\s*[0-9.eE+-]+\s*/\s*(s|min)\s*$`,
	formSize:     `^[0-9]+\s*(B|KiB|MiB)$`,
	formByteRate: `^[0-9]+\s*(B|KiB|MiB)\s*/s$`,
	formDuration: `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$|^0$`,
}

// WriteSchema writes the JSON schema of a scenario, with which an editor completes and
// checks one as it is typed. What one field says of another the schema can't tell.
func WriteSchema(w io.Writer) error {
	root := objectSchema("")
	root.Schema, root.Title = "http://json-schema.org/draft-07/schema#", "Scenario of barrage bench"
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return fmt.Errorf("write the schema of scenarios: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}

func objectSchema(path string) schema {
	s := schema{Type: "object", AdditionalProperties: new(bool)}
	for _, f := range below(path) {
		name := f.path[strings.LastIndexByte(f.path, '.')+1:]
		s.Properties = append(s.Properties, property{name, f.schema()})
		if f.needed {
			s.Required = append(s.Required, name)
		}
	}
	return s
}

func (f field) schema() schema {
	s := f.valueSchema()
	if f.form == formRanges && len(f.words) > 0 {
		s = schema{AnyOf: []schema{s, {Enum: f.words}}}
	}
	s.Description = f.help
	if f.least != "" && f.form != formNumbers && f.form != formRanges {
		s.Description += fmt.Sprintf(" From %s to %s.", f.least, f.most)
	}
	return s
}

func (f field) valueSchema() schema {
	switch f.form {
	case formObject:
		return objectSchema(f.path)
	case formList:
		element, _ := fieldAt(f.path + ".0")
		item := element.schema()
		return schema{Type: "array", Items: &item, MinItems: 1}
	case formNumbers:
		return schema{Type: "array", Items: &schema{Type: "integer", Minimum: json.Number(f.least), Maximum: json.Number(f.most)}}
	case formRanges:
		return schema{Type: "array", Items: &schema{AnyOf: []schema{
			{Type: "integer", Minimum: json.Number(f.least), Maximum: json.Number(f.most)},
			{Type: "string", Pattern: `^[0-9]+-[0-9]+$`},
		}}}
	case formSettings:
		return schema{Type: "object", AdditionalProperties: new(bool), PatternProperties: map[string]schema{
			`^[A-Za-z0-9]+\..+$`: {Type: []string{"string", "number", "boolean"}},
		}}
	case formThresholds:
		s := schema{Type: "object", AdditionalProperties: new(bool), PatternProperties: map[string]schema{}}
		for _, figure := range report.Figures(anyLine) {
			threshold := schema{Type: []string{"string", "number"}, Description: figure.Help}
			if _, ok := report.LineOf(figure.Name); ok {
				s.PatternProperties["^"+strings.Replace(regexp.QuoteMeta(figure.Name), anyLine, ".+", 1)+"$"] = threshold
			} else {
				s.Properties = append(s.Properties, property{figure.Name, threshold})
			}
		}
		return s
	case formWhole, formFraction:
		number := schema{Type: "number", Minimum: json.Number(f.least), Maximum: json.Number(f.most)}
		if f.form == formWhole {
			number.Type = "integer"
		}
		if len(f.words) > 0 {
			number = schema{AnyOf: []schema{number, {Enum: f.words}}}
		}
		if f.absent != "" {
			number.Default = json.Number(f.absent)
		}
		return number
	case formSwitch:
		return schema{Type: "boolean", Default: f.absent == "true"}
	}
	s := schema{Type: "string", Pattern: patterns[f.form], Enum: f.words}
	if f.absent != "" {
		s.Default = f.absent
	}
	return s
}

// WriteReference writes every field of a scenario as a page of Markdown.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Scenarios\n\nEvery field of a scenario, the accepted values, and what holds when it is not there. `barrage bench -schema` prints\n" +
		"the same as a JSON schema, with which an editor completes a scenario as it is typed. This page is generated by\n" +
		"`make docs`.\n")
	b.WriteString("\n## The scenario itself\n" + fieldsHead)
	for _, f := range fields {
		if !strings.Contains(f.path, ".") && f.form == formText {
			writeField(&b, f)
		}
	}
	for _, f := range fields {
		if !strings.Contains(f.path, ".") && (f.form == formObject || f.form == formList || f.form == formThresholds) {
			fmt.Fprintf(&b, "\n## %s\n\n%s\n", f.path, f.help)
			writeFields(&b, f.path)
		}
	}
	b.WriteString("\n## Figures\n\nWhat `expect` knows, `compare` shows and `bench.txt` holds.\n\n| figure | unit | what it is |\n|---|---|---|\n")
	for _, figure := range report.Figures(anyLine) {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", figure.Name, figure.Unit, figure.Help)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeFields(b *strings.Builder, path string) {
	head := false
	for _, f := range fields {
		if !strings.HasPrefix(f.path, path+".") || f.path == path+".*" {
			continue
		}
		if !head {
			b.WriteString(fieldsHead)
			head = true
		}
		writeField(b, f)
	}
}

const fieldsHead = "\n| field | accepted | default | what it is |\n|---|---|---|---|\n"

func writeField(b *strings.Builder, f field) {
	fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.path, f.accepted(), f.otherwise(), f.help)
}

// accepted says in words what a field may hold.
func (f field) accepted() string {
	switch f.form {
	case formObject:
		return "a mapping"
	case formSettings:
		return "settings by their keys"
	}
	var parts []string
	if f.least != "" {
		parts = append(parts, fmt.Sprintf("%s to %s", f.least, f.most))
	}
	for _, w := range f.words {
		parts = append(parts, "`"+w+"`")
	}
	switch {
	case f.form == formSwitch:
		return "true, false"
	case f.form == formText && len(f.words) == 0:
		return "a text"
	case f.form == formNumbers:
		return "a list of " + strings.Join(parts, ", or ")
	case f.form == formRanges:
		return "a list of numbers and ranges (3-7) in " + strings.Join(parts, ", or ")
	}
	return strings.Join(parts, ", ")
}

func (f field) otherwise() string {
	switch {
	case f.needed:
		return "needed"
	case f.absent != "":
		return f.absent
	}
	return ""
}
