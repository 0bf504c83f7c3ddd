package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"time"
)

//go:embed page
var embedded embed.FS

// A file is one of the page's, as served.
type file struct {
	content     []byte
	contentType string
	etag        string
}

// loadFiles returns the page's files by the path they are served at.
func loadFiles() (map[string]file, error) {
	types := map[string]string{".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
	entries, err := fs.ReadDir(embedded, "page")
	if err != nil {
		return nil, fmt.Errorf("read the embedded page: %w", err)
	}
	files := map[string]file{}
	for _, entry := range entries {
		content, err := fs.ReadFile(embedded, "page/"+entry.Name())
		if err != nil {
			return nil, fmt.Errorf("read the embedded page: %w", err)
		}
		ext := path.Ext(entry.Name())
		contentType := types[ext]
		if contentType == "" {
			contentType = mime.TypeByExtension(ext)
		}
		sum := sha256.Sum256(content)
		served := "/" + entry.Name()
		if served == "/index.html" {
			served = "/{$}"
		}
		files[served] = file{content, contentType, `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
	return files, nil
}

func (s *Server) serveFile(w http.ResponseWriter, r *http.Request) {
	served := r.URL.Path
	if served == "/" {
		served = "/{$}"
	}
	f := s.files[served]
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("Etag", f.etag)
	h.Set("Cache-Control", "no-cache") // kept, but asked for: the page is never older than the binary
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}

// settings is /console.json.
type settings struct {
	API           string `json:"api"`            // for the user's eyes: the page itself asks its own origin
	WebSocket     string `json:"websocket"`      // URL; "" to ask /goim/nodes/weighted
	WebSocketPort int    `json:"websocket_port"` // on the page's host, when nobody knows more
}

func (s *Server) serveSettings(w http.ResponseWriter, r *http.Request) {
	host := hostName(r.Host)
	text, err := json.Marshal(settings{reachable(s.api(), host), s.webSocket(host), defaultWebSocketPort})
	if err != nil { // texts and numbers can always be encoded
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, text)
}

func writeJSON(w http.ResponseWriter, status int, text []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text) // a browser that left has nothing to be told
}
