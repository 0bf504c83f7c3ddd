// Package scenarios holds the scenarios that come with the binary.
package scenarios

import "embed"

// Files are the *.yaml files of this folder.
//
//go:embed *.yaml
var Files embed.FS
