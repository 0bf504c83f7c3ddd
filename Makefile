proto: ## regenerate server/api with the generators pinned in go.mod
	protoc -I server/api --plugin=protoc-gen-go=$$(go tool -n protoc-gen-go) --plugin=protoc-gen-go-grpc=$$(go tool -n protoc-gen-go-grpc) \
	  --go_out=. --go_opt=module=barrage --go-grpc_out=. --go-grpc_opt=module=barrage \
	  protocol/protocol.proto comet/comet.proto logic/logic.proto
