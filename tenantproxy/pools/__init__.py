"""Which connection serves?"""
