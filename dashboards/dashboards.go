// Package dashboards holds Grafana dashboards for what Barrage's processes and its harness
// say of themselves. README.md says how to load them.
package dashboards

import "embed"

// Files are the dashboards, in Grafana's JSON.
//
//go:embed *.json
var Files embed.FS
