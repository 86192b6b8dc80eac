"""How are documents kept one tenant's own? Clients of MongoDB's clusters, and the guard in front of collections."""

from tenantproxy.mongo.clusters import MongoClusters
from tenantproxy.mongo.collection import MongoFound, TenantCollection
from tenantproxy.mongo.documents import TenantDocuments, own_database

__all__ = ["MongoClusters", "MongoFound", "TenantCollection", "TenantDocuments", "own_database"]
